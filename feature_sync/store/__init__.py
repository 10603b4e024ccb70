"""The online store, and the streams that lie in it: the only folder of feature_sync that imports redis."""

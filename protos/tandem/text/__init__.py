"""The frozen text encoder of the item tower, run by the trainer and by feature_sync; never by the server."""

"""The environment of every benchmark: the machine's cores, the store and the servers."""

"""The local stack: store, training, publishing and serving on one machine, as child processes of one command."""

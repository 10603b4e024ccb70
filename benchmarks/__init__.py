"""The load benchmark: `python -m benchmarks`, `make bench`. It sees the server from outside only."""

import os

# gRPC tells of every child process that is started while a channel is open; set before grpc is imported.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

"""The load benchmark: `python -m benchmarks`, `make bench`. It uses only the server's public interfaces."""

import os

# gRPC logs a line for every child process started while a channel is open. Set before grpc is imported.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

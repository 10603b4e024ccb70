"""The gRPC side of the worker: the only folder that imports grpc, and where wire messages end."""

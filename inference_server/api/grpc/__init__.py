"""The gRPC side of the worker: the only folder that imports grpc. Wire messages go no further than this folder."""

"""What the two protocols share: protobuf messages to and from the types of `core`. gRPC and HTTP have a folder each."""

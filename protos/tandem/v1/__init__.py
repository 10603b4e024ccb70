"""Generated stubs of the public API, one module per .proto beside them. Regenerate with `make protos`."""

"""Stubs of the public API, generated from the .proto files in this folder. Regenerate with `make protos`."""

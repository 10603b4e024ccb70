"""The program that `run` starts: all consumers of the streams, put together."""

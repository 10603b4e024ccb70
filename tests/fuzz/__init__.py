"""Requests that no client would send, in numbers, to a real server: none may be answered as a fault of the server.

The tests send a hundredth of what `make fuzz` sends over gRPC and HTTP. Requests follow from a seed.
"""

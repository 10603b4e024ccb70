"""Requests that no client would send, in numbers, to a real server: none may be answered as a fault of the server.

The tests send a few thousand; `make fuzz` sends half a million. Requests follow from a seed.
"""

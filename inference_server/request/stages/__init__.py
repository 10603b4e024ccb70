"""The stages of a request, one module each, in the order of `recommend.recommend`.

Each takes what the one before it returned and returns the next, frozen; each carries the `Admitted` it belongs to.
"""

"""The stages of a request, one module each. `Pipeline.answers` calls them in order.

Each stage takes the result of the stage before it, and returns a frozen result that holds the `Admitted` requests.
"""

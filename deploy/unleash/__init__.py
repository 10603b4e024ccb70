"""An Unleash server on this machine, on a PostgreSQL of its own: for development, and for the tests of experiments."""

"""The check of a bundle before it serves, run in a child process of the supervisor and by `check`."""

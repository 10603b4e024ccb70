"""The worker process, which answers requests, and the fork server that every worker is forked from."""

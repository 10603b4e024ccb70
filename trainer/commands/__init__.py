"""The verbs of `python -m trainer`, one module each.

A module has SUMMARY, a line of help; `add_arguments(parser)`; and `run(options, settings)`, which returns the exit
status. A verb imports its libraries when it runs: PyTorch and MLflow take seconds, and `--help` needs neither.
"""

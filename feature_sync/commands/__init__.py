"""The commands of `python -m feature_sync`, one module each.

A module has SUMMARY, a line of help; `add_arguments(parser)`; and `run(options, settings)`, which returns the exit
status. It imports what the command needs when it runs: the embedded store starts without ONNX Runtime, redis or
pyarrow, and `--help` needs none of them.
"""

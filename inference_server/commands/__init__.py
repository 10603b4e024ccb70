"""The commands of `python -m inference_server`, one module each.

A module has SUMMARY, a line of help; PROCESS, the name of the process in its log lines; `add_arguments(parser)`; and
`run(options, settings)`, which returns the exit status. It imports what the command needs when it runs: the supervisor
needs no engine, a worker neither the registry nor the metrics, and `--help` none of them.
"""

"""What an experiment's table of users says: lifts with intervals, sample-ratio check, guardrails, a verdict.

Arithmetic on one table: it reads no file, asks no service and imports no room but `core`. `plan` and `results` are
plain data; `analyse` computes one from the other, and loads scipy and tea-tasting, which takes a second: programs that
do not analyse must not import it.
"""

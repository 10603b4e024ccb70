"""The nightly run: from new events to a served model, or to the champion that keeps serving.

`steps` has its commands, for both ways to run them: `python -m deploy.nightly` (the CronJob and `make nightly`) runs
them one after the other, the Airflow DAG as tasks. Uses only the standard library: Airflow has its own environment, and
the trainer's image has no gRPC.
"""

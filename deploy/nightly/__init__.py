"""The nightly run: from new events to a served model, or to the champion that serves on.

`steps` says which commands it is made of, for everyone who runs them: `python -m deploy.nightly` (the CronJob and
`make nightly`) one after the other, the Airflow DAG as tasks. Standard library alone: Airflow has an environment of its
own, and the trainer's image has no gRPC.
"""

"""The MLflow registry as the trainer uses it: runs, artifacts, versions and aliases."""

from tandem.ops.mlflow_environment import set_mlflow_defaults

# Before a module of this package imports MLflow, which reads its environment variables then.
set_mlflow_defaults()

"""The MLflow registry as the trainer uses it: runs, artifacts, versions and aliases."""

from tandem.ops.mlflow_environment import set_mlflow_defaults

# MLflow reads its environment variables on import, so they are set before a module of this package imports it.
set_mlflow_defaults()

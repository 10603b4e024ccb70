"""The MLflow registry as the trainer uses it: runs, artifacts, versions and aliases."""

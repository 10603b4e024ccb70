"""Code that all three programs share. It is not part of the contract, which stays light.

| module                 | the one definition of                                                              |
| ---------------------- | ---------------------------------------------------------------------------------- |
| `arguments`            | values on a command line: numbers within bounds, times, ids                        |
| `command_line`         | the commands of a program, and how each of them ends                               |
| `deleted_users_file`   | the register of deleted users in the data folder                                   |
| `environment_settings` | settings from environment variables TANDEM_*, and their help                       |
| `file_replacement`     | a new file in the place of another, with its mode and owner                        |
| `metrics`              | how a Prometheus metric is declared                                                |
| `metrics_server`       | the HTTP port of metrics and health: threads with limits                           |
| `mlflow_environment`   | MLflow's environment variables, as the programs set them                           |
| `model_registry`       | a registered model's versions, their aliases and bundles in MLflow                 |
| `onnx_session`         | how towers and rankers run in ONNX Runtime                                         |
| `process_end`          | what a service does last                                                           |
| `process_start`        | what every program does first: secrets out of messages, files for their owner      |
| `secrets`              | how URLs, logs and messages are shown without passwords                            |
| `server_certificate`   | how a certificate and its key are loaded                                           |
| `settings_types`       | the URLs of the registry, the store and the streams, and their defaults             |
| `store_health`         | what a Redis or Valkey says about itself, and whether it may be the online store   |
| `store_words`          | why a Redis or Valkey cannot be used, in its own words                             |
| `watched_files`        | whether files have changed that may be replaced while a program runs               |

Importing the package imports none of its modules, and a module imports at most one heavy library: a program loads
what it uses, and its image contains nothing else.
"""

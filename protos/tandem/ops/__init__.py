"""What the three programs do alike on a machine, beside what they agree on: the contract stays light.

| module                 | the one definition of                                                              |
| ---------------------- | ---------------------------------------------------------------------------------- |
| `environment_settings` | settings from environment variables TANDEM_*, and their help                       |
| `metrics`              | how a Prometheus metric is declared                                                |
| `onnx_session`         | how towers and rankers run in ONNX Runtime                                         |
| `settings_types`       | the URLs of the registry, the store and the streams, and where they lie by default |

Importing this package imports none of them, and each of them imports one library at most: a program has what it uses,
and its image needs no other.
"""

"""What the three programs do alike on a machine, beside what they agree on: the contract stays light.

| module         | the one definition of                         |
| -------------- | --------------------------------------------- |
| `metrics`      | how a Prometheus metric is declared           |
| `onnx_session` | how towers and rankers run in ONNX Runtime    |

Importing this package imports none of them, and each of them imports one library at most: a program has what it uses,
and its image needs no other.
"""

"""What the three programs do alike on a machine, beside what they agree on: the contract stays light.

| module         | the one definition of                         |
| -------------- | --------------------------------------------- |
| `onnx_session` | how towers and rankers run in ONNX Runtime    |

Importing this package imports none of them, and each of them imports one library: a program has what it uses, and its
image needs no other.
"""

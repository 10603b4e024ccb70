"""The contract: what the trainer, feature_sync and the inference server must agree on, and nothing else.

| module       | the one definition of                                             |
| ------------ | ----------------------------------------------------------------- |
| `names`      | column, tensor, event-type and registry names                     |
| `errors`     | the exceptions of this package                                    |
| `vocabulary` | external id <-> 64-bit key <-> row number                         |
| `features`   | feature schema; raw state -> model inputs, in training and serving |
| `store`      | online-store keys and value bytes                                 |
| `items`      | the item table (Arrow)                                            |
| `manifest`   | what a bundle says of itself                                      |
| `ranking`    | the hybrid blend of collaborative and content scores              |
| `bundle`     | the bundle: layout, writing, reading, checks                      |
"""

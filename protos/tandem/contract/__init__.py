"""The contract: what the trainer, feature_sync and the inference server must agree on, and nothing else.

| module            | the one definition of                                              |
| ----------------- | ------------------------------------------------------------------ |
| `names`           | column, tensor, event-type and registry names                      |
| `errors`          | the exceptions of this package                                     |
| `vocabulary`      | external id <-> 64-bit key <-> row number                          |
| `features`        | feature schema; raw state -> model inputs, in training and serving |
| `item_features`   | inputs of the item tower                                           |
| `store`           | online-store keys and value bytes                                  |
| `streams`         | entries of the event and change streams                            |
| `impressions`     | what was shown to whom, and the bytes of its stream entry          |
| `impression_table` | the columns of impressions in Parquet files (Arrow)               |
| `deleted_users`   | who was deleted when, and what is left out therefore               |
| `items`           | the item table (Arrow)                                             |
| `live_items`      | items of the live catalogue in the online store                    |
| `item_item`       | scores of the item-item source                                     |
| `candidates`      | how many candidates each source proposes by default                |
| `exploration`     | what exploration shows, and with which probability                 |
| `ranking`         | the hybrid blend of collaborative and content scores               |
| `recall`          | recall of an index against exact search                            |
| `whole_files`     | small files that a person names                                    |
| `held_out_users`  | held-out users and the file that holds them                        |
| `experiments`     | which arm of an experiment answers a request                       |
| `served`          | what the serving engine answered held-out users                    |
| `replayed`        | logged requests, and how the serving engine orders their pools      |
| `manifest`        | what a bundle says about itself                                    |
| `bundle_contents` | the contents of a bundle in memory                                 |
| `file_formats`    | how one file of a bundle is stored                                 |
| `bundle_files`    | the files of a bundle                                              |
| `bundle`          | writing, checking and opening a bundle                             |
"""

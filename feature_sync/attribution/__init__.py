"""What came of what was shown: events join impressions, and a report counts them.

question   what is asked: the period, the window, the plans of experiments
database   DuckDB over the archives: each event beside the item that it is owed to, or the reason why there is none
summaries  counts and rates by day, scenario, placement, position, model, experiment and arm
users      the tables of an experiment's users, for `feature_sync.statistics`
plans      the file of plans, and the analysis of every experiment
report     all of it as Parquet, JSON and one HTML page, in a folder that appears at once
page       the HTML page; the only module of feature_sync that imports jinja2
plots      its plots; the only module of feature_sync that imports plotly
"""

"""The feature store: offline sources, Feast, training sets, and the comparison of its online values with serving's.

Only this folder imports feast, duckdb and pandas, and only when a command of it runs: Feast takes seconds to import.
"""

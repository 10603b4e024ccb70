"""How what was measured is written down: files of evaluations, tables in Markdown."""

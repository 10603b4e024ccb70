"""From the measured JSON to a page of tables and plots."""

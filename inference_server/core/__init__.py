"""The bottom layer, which every room may import: settings, errors, queries, answers, reasons for a degraded answer."""

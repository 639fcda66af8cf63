"""The report: one self-contained HTML page and the same numbers as JSON."""

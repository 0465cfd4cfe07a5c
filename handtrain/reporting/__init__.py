"""The report: one HTML page and its Markdown twin from one or many runs. Imports `data` and `evaluation`."""

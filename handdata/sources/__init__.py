"""HaGRID's annotations and archives, read in parts over HTTP or from disk.

Imports `rows` and the modules of `handdata/` itself.
"""

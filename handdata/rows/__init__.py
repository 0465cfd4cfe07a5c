"""The rows of a build: their columns, the manifest, the shards that hold them, and decisions about them.

Imports the modules of `handdata/` itself.
"""

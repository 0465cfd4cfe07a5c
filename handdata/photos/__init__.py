"""A folder of photographs as a source: input forms, hands, boxes and splits, which HaGRID's annotations say otherwise.

Imports `sources`, `texts`, `rows`, `vision` and the modules of `handdata/` itself.
"""

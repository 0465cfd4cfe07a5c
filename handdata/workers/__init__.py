"""The workers of a build: one shard of a stage, a worker's share of a machine or cluster, its software, its speed.

Imports `stages` and all below; the drivers in `builds` import it.
"""

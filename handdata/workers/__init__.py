"""The workers of a build: one shard of a stage, the share of a machine or cluster that a worker gets, its software.

Imports `stages` and all below; the drivers in `builds` import it.
"""

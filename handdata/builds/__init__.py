"""The drivers of a build: run its stages, plan it, show its status, review it, drop rows, publish it.

Imports all but `cli` and `world`.
"""

"""One file for each kind of fault that users found.

The letters: a wrong results, b lost or leaked, c stuck, d tracebacks, e found too late.
"""

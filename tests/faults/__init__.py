"""One file for each kind of fault that users found.

a wrong results, b lost or leaked, c stuck, d tracebacks, e found too late.
"""

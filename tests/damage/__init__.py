"""A seeded attack on both programs: damaged files, hostile answers and odd input, with the real main functions.

    python -m tests.damage --tries 3000 --seed 0 [--only FAMILY]

A try damages a copy of a small fixture, runs commands on it in a fork of a warm interpreter, and is judged: every
command has to end with an exit code of 0, 1 or 2, without a traceback, and with one sentence if it does not end with 0.
A command that accepts a damage has to end in the same dataset or model as without it. `trial` runs and judges commands,
`fixture` makes the files, `damages` changes files, `families` names the others, which each hold a family of tries.
"""

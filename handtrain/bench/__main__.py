"""Measure one contender of `handtrain bench`, which starts this program: `python -m handtrain.bench JOB`."""

import sys

from handtrain.bench.turns import main

if __name__ == "__main__":
    main(sys.argv[1])

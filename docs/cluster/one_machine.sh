#!/bin/bash
# One machine with 8 GPUs: 8 workers per stage, each with one GPU and an eighth of the cores.
set -eu
RECIPE=${RECIPE:-hand1000}
BUILD=${BUILD:-build/hand1000}

handdata build "$RECIPE" --out "$BUILD" --workers 8

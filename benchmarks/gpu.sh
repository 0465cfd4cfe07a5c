#!/usr/bin/env bash
# Every figure of one GPU that docs/benchmarks.md shows, as one table and one JSON: ceilings of the hardware, the phases
# of a run, generation, what `--fit` chooses in the memory of smaller cards and what that takes, and the steps of all
# presets, with Stable Diffusion 1.4 at full size and random weights. No network is needed; about 20 GB of disk. The
# parts begin with the cheapest, each in a process of its own with a time limit, and end together within the given
# minutes. On a machine without a GPU, --small takes tiny models instead.
#
#     benchmarks/gpu.sh --out gpu --minutes 9
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-python}" -m benchmarks.gpu "$@"

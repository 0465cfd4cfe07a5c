#!/usr/bin/env bash
# 32 images through every real component: HaGRID's host, MediaPipe, BLIP-large, LLaMA 3 8B, CLIP, Stable Diffusion 1.4,
# Inception and the Hub. It needs the internet, about 15 GB of disk, and for a usual speed a GPU. At the end it prints one
# table of what worked, how fast and how well, and it exits with 1 if a component did not work. The same command resumes.
#
#     benchmarks/real.sh --out real                           # all but publishing
#     benchmarks/real.sh --out real --to hf:USER/NAME         # also publishes the 32 images, to a private repository
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-python}" -m benchmarks.real "$@"

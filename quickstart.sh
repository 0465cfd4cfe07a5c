#!/usr/bin/env bash
# The main job in small, without a GPU or a model hub: draw a HaGRID, build a dataset from it, publish it, measure it.
# Every line that is printed behind a $ is a command that you can type yourself. QUICK=1: smaller numbers.
set -euo pipefail
cd "$(dirname "$0")"
out=${OUT:-quickstart}
build=$out/build
started=$SECONDS

# Fewer pictures than the recipe's 408: a 135M model takes seconds for each of the random captioner's word salads.
smaller=(--render.train 7 --render.validation 2 --render.test 2 --select.train 5 --select.validation 1 --select.test 1)
if [ -n "${QUICK:-}" ]; then
    smaller=(--select.gestures call ok --render.train 12 --render.validation 4 --render.test 4
        --select.train 8 --select.validation 2 --select.test 2)
fi

run() {
    printf '\n$ %s\n' "$*"
    "$@"
}

# What it will cost, then all stages: draw, select, fetch, hands (MediaPipe), captions (BLIP), texts (llama.cpp), checks.
run handdata plan mini "${smaller[@]}"
run handdata build mini --out "$build" "${smaller[@]}"
run handdata status "$build"

# The page on which a person accepts, rejects or corrects rows.
run handdata review "$build"

# A folder that `datasets.load_dataset` reads, or with --to hf:USER/NAME the Hub.
run handdata publish "$build" --to "$out/dataset"
run handdata evaluate "$out/dataset"

cat <<END

$((SECONDS - started)) s. Look at:
  $build/review.html       every row with its hand, caption and text
  $out/dataset/README.md   the dataset's card
The captioner of this recipe has random weights, so the texts say nothing about the pictures; no mini base model is shipped
yet, so nothing is trained here. The real run is in README.md.
END

#!/usr/bin/env bash
# The whole job in small, without a GPU or a model hub: draw a HaGRID, build a dataset from it, train Stable Diffusion
# on one gesture, and see whether its hands got better. Two minutes of reading, at most twelve of waiting.
# Every line that is printed behind a $ is a command that you can type yourself. QUICK=1: numbers too small to mean much.
set -euo pipefail
cd "$(dirname "$0")"
out=${OUT:-quickstart}
build=$out/build
dataset=$out/dataset
run=$out/call
base=mini-stable-diffusion
started=$SECONDS

# 100 pictures to learn from, 50 prompts to draw; four drawings of each are 200 images of either model.
counts=(--render.train 112 --render.validation 10 --render.test 58 --select.train 100 --select.validation 8 --select.test 50)
train=(--unet-epochs 40)
seeds=(0 1 2 3)
if [ -n "${QUICK:-}" ]; then
    counts=(--render.train 24 --render.validation 5 --render.test 12 --select.train 20 --select.validation 4 --select.test 10)
    train=(--unet-epochs 10)
    seeds=(0)
fi

run() {
    printf '\n$ %s\n' "$*"
    "$@"
}

# The dataset: what it will cost, then all stages: draw, select, fetch, hands (MediaPipe), captions (BLIP), texts
# (llama.cpp), checks. Three of the six gestures; the two others tell the metrics what is not the gesture.
run handdata plan mini --select.gestures call ok palm "${counts[@]}"
run handdata build mini --out "$build" --select.gestures call ok palm "${counts[@]}"
run handdata status "$build"
run handdata review "$build"
run handdata publish "$build" --to "$dataset"

# The three stages: the gesture feature, the embeddings, the UNet.
run handtrain train --dataset "$dataset" --gesture call --base "$base" --preset mini --out "$run" "${train[@]}"

# The same prompts and seeds through both models, then the numbers and the page.
draw=(--prompts "$dataset:test" --gesture call --seeds "${seeds[@]}" --steps 20 --batch 25)
run handtrain generate --model "$base" --out "$run/images/base" "${draw[@]}"
run handtrain generate --model "$run/model" --out "$run/images/tuned" "${draw[@]}"
run handtrain evaluate --real "$dataset:test" --fake "$run/images/tuned" --base "$run/images/base" \
    --clip none --json "$run/evaluation.json"
run python -m mini.colours "$run/images/base" "$run/images/tuned" --json-file "$run/colours.json"
run handtrain report "$run" --out "$out/report.html"

cat <<END

$((SECONDS - started)) s. Look at:
  $out/report.html         base against tuned: numbers and pictures
  $build/review.html       every row with its hand, caption and text
  $dataset/README.md       the dataset's card
END

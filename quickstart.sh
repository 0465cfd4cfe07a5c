#!/usr/bin/env bash
# Everything in small, without a GPU or a model hub: draw a HaGRID, build a dataset from it, train Stable Diffusion on
# one gesture, and compare its hands with those of the base. Every line printed after a $ is a command to run by hand.
# QUICK=1 uses counts that are too small for meaningful results.
set -euo pipefail
cd "$(dirname "$0")"
out=${OUT:-./quickstart}
case $out in /* | ./* | ../*) ;; *) out=./$out ;; esac  # NAME/dataset would be a name on the Hub
gesture=palm
build=$out/build
dataset=$out/dataset
run=$out/$gesture
base=mini-stable-diffusion
started=$SECONDS

# 80 training pictures and 30 prompts. Fourteen seeds per prompt give 420 images of either model, enough hands for every
# metric. The metrics compare them with 300 new pictures of the gesture.
counts=(--render.train 88 --render.validation 5 --render.test 34 --select.train 80 --select.validation 4 --select.test 30)
train=(--unet-epochs 100)
seeds=(0 1 2 3 4 5 6 7 8 9 10 11 12 13)
real=300
if [ -n "${QUICK:-}" ]; then
    counts=(--render.train 14 --render.validation 4 --render.test 6 --select.train 12 --select.validation 2 --select.test 4)
    train=(--unet-epochs 4)
    seeds=(0)
    real=20
fi

run() {
    printf '\n$ %s\n' "$*"
    "$@"
}

# The dataset: its cost, then all stages: draw, select, fetch, landmarks (MediaPipe), captions (BLIP), texts (llama.cpp)
# and checks. It has three of the six gestures; the metrics need the two others to recognise wrong gestures.
run handdata plan mini --select.gestures call ok palm "${counts[@]}"
run handdata build mini --out "$build" --select.gestures call ok palm --rewrite.retries 1 "${counts[@]}"
run handdata status "$build"
run handdata review "$build"
run handdata publish "$build" --to "$dataset"

# The three stages: the gesture feature, the embeddings, the UNet.
run handtrain train --dataset "$dataset" --gesture "$gesture" --base "$base" --preset mini --out "$run" "${train[@]}"

# Images of both models from the same prompts and seeds, then the metrics and the report.
draw=(--prompts "$dataset:test" --gesture "$gesture" --seeds "${seeds[@]}" --steps 20 --batch 25)
run handtrain generate --model "$base" --out "$run/images/base" "${draw[@]}"
run handtrain generate --model "$run/model" --out "$run/images/tuned" "${draw[@]}"

# Images of both models from prompts without a gesture: a model that draws its gesture there has forgotten the others.
cat > "$out/free.txt" <<END
a photo of a hand with dark skin and a black sleeve in front of a pink wall with a bookshelf, on the right
a photo of a hand with dark skin and a bare arm in front of a plain beige wall, on the right
a hand with light skin and a purple sleeve on the left in front of a plain purple wall
a photo of a hand with light skin and a pink sleeve in front of a beige striped wall, on the right
a photo of a hand with brown skin and a blue sleeve in front of a yellow wall with a clock, in the middle
a hand with brown skin and an orange sleeve in the middle in front of a green wall with a plant
a hand with light skin and a bare arm in the middle in front of a grey wall with a window
a person with dark skin and a white sleeve in front of a plain pink wall, the hand in the middle
END
draw=(--prompts "$out/free.txt" --seeds "${seeds[@]}" --steps 20 --batch 25)
run handtrain generate --model "$base" --out "$run/images/free_base" "${draw[@]}"
run handtrain generate --model "$run/model" --out "$run/images/free" "${draw[@]}"

run handdata render --out "$out/real" --gestures "$gesture" --train 0 --validation 0 --test "$real" --size 128 --seed 7 \
    --second-hand 0.1 --no-oddities
run python -m zipfile -e "$out/real/$gesture.zip" "$out/real"
run handtrain evaluate --real "$out/real/$gesture" --fake "$run/images/tuned" --base "$run/images/base" \
    --free "$run/images/free" --free-base "$run/images/free_base" --landmarks "$dataset" --clip none \
    --variants standard --json "$run/evaluation.json"
run python -m handtrain.mini.colours "$run/images/base" "$run/images/tuned" --json-file "$run/colours.json"
run handtrain report "$run" --out "$out/report.html"
run python -m handtrain.mini.summary "$run"

cat <<END

$((SECONDS - started)) s. Look at:
  $out/report.html         base against tuned: numbers and pictures
  $build/review.html       every row with its hand, caption and text
  $dataset/README.md       the dataset's card
END

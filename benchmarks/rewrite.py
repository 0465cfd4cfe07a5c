"""Measure rewriting: how many texts the model itself writes, and its speed against one call per row.

    python benchmarks/rewrite.py CAPTIONS [--count 300] [--model smollm2-135m] [--out FILE]

CAPTIONS is `truth.jsonl` of a mini world (`handdata render`), whose captions name no gesture. The comparison sends the
same first questions, without retries, to `Llama.create_chat_completion`, which also keeps the common prefix in its
cache, with the same number of threads; both alternate, each in a process of its own.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

from handdata.gestures import gestures
from handdata.recipe import RewriteOptions
from handdata.stages.rewrite import load_model, model_file, prompt_text, rewrite
from handdata.texts.answers import tidy
from handdata.texts.chat import Ask, read_prompt
from handdata.texts.checks import failures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("captions", type=Path)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--parallel", type=int, default=16)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=1, help="number of rounds of the speed comparison")
    parser.add_argument("--way", choices=WAYS, help="answer in this way only and print JSON (used by the comparison)")
    parser.add_argument("--skip", choices=("merit", "speed"))
    parser.add_argument("--out", type=Path, help="file for the texts, as JSON lines")
    given = parser.parse_args()
    options = RewriteOptions(model=given.model, parallel=given.parallel, threads=given.threads)
    pairs = read_pairs(given.captions, given.count)
    if given.way:
        prompt = read_prompt(prompt_text(options), "prompt")
        asks = [Ask(prompt.messages(caption, gestures()[gesture].phrase)) for caption, gesture in pairs]
        print(json.dumps(WAYS[given.way](asks, options)))
        return
    print(
        f"{len(pairs)} distinct captions, {len({gesture for _, gesture in pairs})} gestures, {given.model}", flush=True
    )
    if given.skip != "speed":
        measure_speed(given, pairs)
    if given.skip != "merit":
        measure_merit(pairs, options, given.out)


def read_pairs(path: Path, count: int) -> list[tuple[str, str]]:
    """Return the first distinct captions with their gestures, the same number for each gesture."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    by_gesture: dict[str, list[str]] = {}
    seen: set[str] = set()
    for row in rows:
        if row["caption"] not in seen:
            seen.add(row["caption"])
            by_gesture.setdefault(row["gesture"], []).append(row["caption"])
    each = count // len(by_gesture)
    return [(caption, gesture) for gesture, captions in by_gesture.items() for caption in captions[:each]]


def measure_merit(pairs: list[tuple[str, str]], options: RewriteOptions, out: Path | None) -> None:
    model = load_model(options)
    start, cpu = time.perf_counter(), time.process_time()
    texts = rewrite(pairs, model, read_prompt(prompt_text(options), "prompt"), options)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    model.close()
    ways = Counter(text.rewrite or "without text" for text in texts)
    failed = Counter(name for text in texts for name in text.failed)
    print(f"with {options.retries} retries: {seconds:.0f} s ({cpu:.0f} s of CPU)")
    print(", ".join(f"{way} {n} ({100 * n / len(pairs):.1f} %)" for way, n in ways.most_common()))
    for name, n in failed.most_common():
        print(f"  {n:>5}  {name}")
    if out:
        lines = [
            json.dumps({"caption": caption, "gesture": gesture, "text": text.text, "rewrite": text.rewrite})
            for (caption, gesture), text in zip(pairs, texts, strict=True)
        ]
        out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def measure_speed(given: argparse.Namespace, pairs: list[tuple[str, str]]) -> None:
    """Run each way in a process of its own, so that neither inherits the other's OpenMP settings."""
    command = [sys.executable, __file__, str(given.captions), "--count", str(given.count), "--model", given.model]
    command += ["--parallel", str(given.parallel), "--threads", str(given.threads)]
    answers: dict[str, list[str]] = {}
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for _, way in product(range(given.rounds), WAYS):
        done = subprocess.run([*command, "--way", way], check=True, stdout=subprocess.PIPE, text=True)
        result = json.loads(done.stdout.splitlines()[-1])
        answers[way] = result["answers"]
        seconds[way].append(result["seconds"])
        good = sum(not failures(*pair, tidy(answer)) for pair, answer in zip(pairs, answers[way], strict=True))
        cpu = f"{result['cpu']:.1f} s of CPU"
        print(f"{way}: {result['seconds']:.1f} s ({cpu}), {good} of {len(pairs)} pass at the first try", flush=True)
    ours, plain = answers.values()
    same = sum(a.strip() == b.strip() for a, b in zip(ours, plain, strict=True))
    ratios = [slow / fast for fast, slow in zip(*seconds.values(), strict=True)]
    print(f"{statistics.median(ratios):.2f} times as fast (median of {given.rounds}); {same} answers are equal")


def many_sequences(asks: list[Ask], options: RewriteOptions) -> dict[str, Any]:
    model = load_model(options)
    start, cpu = time.perf_counter(), time.process_time()
    answers = [answer.text for answer in model.answer(asks, options.max_tokens)]
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    model.close()
    return {"answers": answers, "seconds": seconds, "cpu": cpu}


def one_call_per_row(asks: list[Ask], options: RewriteOptions) -> dict[str, Any]:
    import llama_cpp

    from handdata.machine import cores

    threads = options.threads or cores()
    path = str(model_file(options.model))
    plain: Any = llama_cpp.Llama(path, n_ctx=1024, n_threads=threads, n_threads_batch=threads, verbose=False)
    start, cpu = time.perf_counter(), time.process_time()
    answers = []
    for ask in asks:
        turns = [{"role": role, "content": content} for role, content in ask.messages]
        reply = plain.create_chat_completion(turns, temperature=0.0, max_tokens=options.max_tokens)
        answers.append(str(reply["choices"][0]["message"]["content"]))
    return {"answers": answers, "seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}


WAYS = {"many sequences at once": many_sequences, "one create_chat_completion per row": one_call_per_row}


if __name__ == "__main__":
    main()

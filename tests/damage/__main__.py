"""Run tries of all families, or of one, and print a table and every bad try with the command that repeats it."""

import argparse
import itertools
import json
import os
import random
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from tests import ROOT
from tests.damage.families import FAMILIES, SHARES
from tests.damage.fixture import fixture_folder

GOOD = ("refused", "rebuilt", "equal", "declared")
BAD = ("WRONG", "last resort", "traceback", "no sentence", "time-out", "killed by a signal", "broken harness")


def chosen(fixture: Path, tries: int, seed: int, only: str | None) -> list[dict[str, Any]]:
    """Return the tries: of each family its share, its cases in random order, as often as needed with other seeds."""
    shares = {name: share for name, share in SHARES.items() if only in (None, name)}
    picked = []
    for name, share in shares.items():
        cases = FAMILIES[name].cases(fixture)
        random.Random(f"{seed} {name}").shuffle(cases)
        count = max(1, round(tries * share / sum(shares.values())))
        for number in range(count):
            case, again = cases[number % len(cases)], number // len(cases)
            picked.append({"family": name, "name": case, "seed": seed * 1000 + again})
    random.Random(seed).shuffle(picked)  # so that long families do not come last
    return picked[:tries] if only is None else picked


def results(fixture: Path, cases: list[dict[str, Any]], at_once: int = 2) -> Iterator[dict[str, Any]]:
    """Yield the result of each case as it ends; `at_once` warm processes fork the tries."""
    waiting: SimpleQueue[dict[str, Any]] = SimpleQueue()
    done: SimpleQueue[dict[str, Any]] = SimpleQueue()
    for case in cases:
        waiting.put(case)
    variables = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1") | {"HF_HUB_OFFLINE": "1"}
    quiet = {"TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "PYTHONPATH": str(ROOT), "COLUMNS": "200"}

    def serve() -> None:
        with subprocess.Popen(
            [sys.executable, "-m", "tests.damage.warm", str(fixture)], cwd=ROOT, text=True,
            env={**os.environ, **variables, **quiet}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as process:  # fmt: skip
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                while True:
                    case = waiting.get_nowait()
                    process.stdin.write(json.dumps(case) + "\n")
                    process.stdin.flush()
                    line = process.stdout.readline()
                    done.put(
                        json.loads(line) if line else {**case, "verdict": "broken harness", "wrong": ["no answer"]}
                    )
            except (Empty, BrokenPipeError):
                process.stdin.close()

    threads = [threading.Thread(target=serve, daemon=True) for _ in range(at_once)]
    for thread in threads:
        thread.start()
    for _ in cases:
        yield done.get()


def good_ones(path: Path | None, cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the good results of these cases in a file of an earlier run, so that a stopped run can be resumed."""
    if path is None or not path.exists():
        return []
    stored = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    wanted = {_name(case) for case in cases}
    good = {_name(each): each for each in stored if each["verdict"] in GOOD and _name(each) in wanted}
    return list(good.values())


def _name(case: dict[str, Any]) -> tuple[Any, ...]:
    return case["family"], case["name"], case["seed"]


def table(outcomes: list[dict[str, Any]]) -> str:
    """Return the totals by family as text."""
    columns = [*GOOD, *BAD]
    counts = {name: Counter(each["verdict"] for each in outcomes if each["family"] == name) for name in FAMILIES}
    counts = {name: count for name, count in counts.items() if count}
    counts["all"] = sum(counts.values(), Counter())
    width = max(map(len, counts))
    lines = [f"{'':<{width}} {'tries':>7} " + " ".join(f"{column:>{max(7, len(column))}}" for column in columns)]
    for name, count in counts.items():
        cells = " ".join(f"{count[column]:>{max(7, len(column))}}" for column in columns)
        lines.append(f"{name:<{width}} {count.total():>7} {cells}")
    return "\n".join(lines)


def described(outcome: dict[str, Any]) -> str:
    """Return a bad try as text: the command that repeats it, and where it went wrong."""
    repeat = f'python -m tests.damage --only "{outcome["family"]}" --case "{outcome["name"]}" --seed {outcome["seed"]}'
    lines = [f"{outcome['verdict']}: {repeat}"]
    for end in outcome.get("ended", ()):
        bad = end["last_resort"] or end["traceback"] or not end["sentence"] or end["code"] not in (0, 1, 2)
        if bad:
            last = (end["last_resort"] or end["errors"]).strip().splitlines()[-1:]
            places = [line.strip() for line in (end["last_resort"] or end["errors"]).splitlines() if 'File "' in line]
            own = [place for place in places if "/handdata/" in place or "/handtrain/" in place][-1:]
            lines.append(f"    {' '.join(end['words'][:2])} -> {end['code']}: {' '.join(last)[:200]}  {' '.join(own)}")
    lines += [f"    {wrong.strip().splitlines()[-1][:300]}" for wrong in outcome.get("wrong", ())]
    return "\n".join(lines)


def main() -> int:
    """Run the tries; return 1 if any was bad."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tries", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=FAMILIES, help="one family")
    parser.add_argument("--case", help="one case of the family; its folder is kept")
    parser.add_argument("--at-once", type=int, default=2, help="number of tries at the same time")
    parser.add_argument("--fixture", type=Path, help="folder for the fixture (default: one for temporary files)")
    parser.add_argument("--json", type=Path, help="file for results; good ones in it are not repeated")
    given = parser.parse_args()
    fixture = fixture_folder(given.fixture)
    if given.case:
        cases = [{"family": given.only, "name": given.case, "seed": given.seed, "keep": True}]
    else:
        cases = chosen(fixture, given.tries, given.seed, given.only)
    outcomes = good_ones(given.json, cases)
    began = itertools.count(len(outcomes) + 1)
    done = {_name(outcome) for outcome in outcomes}
    left = [case for case in cases if _name(case) not in done]
    for outcome in results(fixture, left, 1 if given.case else given.at_once):
        outcomes.append(outcome)
        if given.json:
            with given.json.open("a", encoding="utf-8") as file:
                file.write(json.dumps(outcome) + "\n")
        number = next(began)
        if outcome["verdict"] not in GOOD:
            print(described(outcome), flush=True)
        if number % 100 == 0:
            print(f"{number} of {len(cases)}", file=sys.stderr, flush=True)
    if given.case:
        print(json.dumps(outcomes[0], indent=1))
    print(table(outcomes))
    return int(any(outcome["verdict"] not in GOOD for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())

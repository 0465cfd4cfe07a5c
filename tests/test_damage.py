"""The attack of tests/damage in small: 300 tries, of all families, with another seed than `make damage`."""

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.damage.__main__ import GOOD, chosen, described, good_ones, results, table
from tests.damage.families import FAMILIES, SHARES
from tests.damage.fixture import fixture_folder
from tests.damage.trial import Ended, Trial

TRIES = 300


@pytest.fixture(scope="module")
def fixture() -> Path:
    return fixture_folder()


@pytest.mark.slow
def test_300_tries_end_with_the_same_result_or_one_sentence(fixture: Path) -> None:
    outcomes = list(results(fixture, chosen(fixture, TRIES, seed=1, only=None)))
    print(table(outcomes))
    bad = [described(outcome) for outcome in outcomes if outcome["verdict"] not in GOOD]
    assert len(outcomes) >= TRIES - len(FAMILIES) and not bad, "\n".join(bad)


@pytest.mark.slow
def test_without_damage_every_command_of_the_files_ends_well(fixture: Path) -> None:
    controls = [
        {"family": name, "name": case, "seed": 0}
        for name, family in FAMILIES.items()
        for case in family.cases(fixture)
        if " none " in case and name != "cache"
    ]
    outcomes = list(results(fixture, controls))
    verdicts = Counter(outcome["verdict"] for outcome in outcomes)
    assert set(verdicts) <= {"equal", "declared", "refused"}, [described(outcome) for outcome in outcomes]
    assert verdicts["equal"] > len(controls) * 3 // 4, verdicts


def test_every_family_has_a_share_and_cases_with_different_names(tmp_path: Path) -> None:
    (tmp_path / "build").mkdir()
    for name in ("published", "paused", "run", "model", "images", "cache", "base"):
        (tmp_path / name).mkdir()
    for name in ("build", "published", "paused", "run", "model", "images", "cache", "base"):
        (tmp_path / name / "a.json").write_text("{}")
    assert SHARES.keys() == FAMILIES.keys()
    for family in FAMILIES.values():
        cases = family.cases(tmp_path)
        assert cases and len(cases) == len(set(cases))
    assert chosen(tmp_path, 100, 3, None) == chosen(tmp_path, 100, 3, None) != chosen(tmp_path, 100, 4, None)
    assert len(chosen(tmp_path, 5000, 0, "chat servers")) == 5000, "cases are repeated with other seeds"


def test_an_attack_that_was_stopped_repeats_all_but_the_good_tries(tmp_path: Path) -> None:
    cases = [{"family": "run", "name": name, "seed": 0} for name in "abc"]
    stored = [{**cases[0], "verdict": "equal"}, {**cases[1], "verdict": "WRONG"}, {**cases[0], "seed": 1}]
    (tmp_path / "a.json").write_text("".join(json.dumps({"verdict": "equal", **each}) + "\n" for each in stored))
    assert [each["name"] for each in good_ones(tmp_path / "a.json", cases)] == ["a"]
    assert good_ones(tmp_path / "missing.json", cases) == good_ones(None, cases) == []


@pytest.mark.parametrize(
    ("ended", "wrong", "verdict"),
    [
        (Ended(["x"], 0, ""), [], "equal"),
        (Ended(["x"], 2, "x: correct it"), [], "refused"),
        (Ended(["x"], 0, ""), ["dataset differs"], "WRONG"),
        (Ended(["x"], 1, "x: unexpected", last_resort="trace"), ["dataset differs"], "last resort"),
        (Ended(["x"], 0, "", traceback=True), [], "traceback"),
        (Ended(["x"], None, ""), [], "traceback"),
        (Ended(["x"], 1, "", sentence=False), [], "no sentence"),
        (Ended(["x"], 134, "x: y"), [], "no sentence"),
    ],
)
def test_a_try_is_judged_by_its_worst_end(tmp_path: Path, ended: Ended, wrong: list[str], verdict: str) -> None:
    import random

    assert Trial(tmp_path, tmp_path, random.Random(0), [ended], wrong).verdict() == verdict

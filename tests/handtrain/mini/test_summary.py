from pathlib import Path

import pytest

from handdata.errors import UserError
from handtrain.mini.summary import METRICS, lines, main


def entry(base: float, tuned: float, low: float, high: float) -> dict:
    difference = {"value": tuned - base, "low": low, "high": high}
    return {"standard": {"base": {"value": base}, "fake": {"value": tuned}, "difference": difference}}


def with_real(metric: dict, real: float) -> dict:
    return {"standard": {**metric["standard"], "real": {"value": real}}}


def test_the_table_has_base_tuned_and_difference_in_this_order():
    metrics = {
        "gesture accuracy": with_real(entry(0.03, 0.62, 0.54, 0.63), 0.95),
        "hand-found rate": {"standard": {"not_computed": "no hands"}},
        "landmark distance": entry(6.0, 0.1, -7.0, -5.0),
        "HAND-CONF": entry(0.835, 0.833, -0.02, 0.02),
    }
    difference = {"value": 0.002, "low": -0.017, "high": 0.019}
    colours = {"sleeve": {"a/base": {"value": 0.957}, "a/tuned": {"value": 0.96}, "difference": difference}}
    _, accuracy, rate, distance, _, sleeve = lines({"metrics": metrics}, colours)
    assert accuracy.split()[2:] == "3.0 % 62.0 % 95.0 % +59.0 (+54.0 to +63.0)".split()
    assert rate.endswith("not computed: no hands")
    assert distance.split()[2:] == ["6.000", "0.100", "-", "-5.900", "(-7.000", "to", "-5.000)"]
    assert sleeve.split()[2:] == ["95.7", "%", "96.0", "%", "-", "+0.2", "(-1.7", "to", "+1.9)"]


def test_the_gesture_without_request_has_a_line_if_it_was_measured():
    metrics = dict.fromkeys(METRICS, entry(0.5, 0.6, 0.05, 0.15))
    assert not any(line.startswith("without request") for line in lines({"metrics": metrics}, {}))
    metrics["gesture without request"] = entry(0.09, 0.68, 0.48, 0.7)
    last = [*lines({"metrics": metrics}, {})][-1]
    assert last.startswith("without request")
    assert last.split()[2:] == "9.0 % 68.0 % - +59.0 (+48.0 to +70.0)".split()


def test_few_hands_have_no_interval():
    few = {"standard": {"base": {"value": 0.5}, "fake": {"value": 0.75}, "difference": {"value": 0.25, "low": None}}}
    none = {"standard": {"base": {"value": 0.5}, "fake": {"value": 0.75}}}
    metrics = dict.fromkeys(["gesture accuracy", "hand-found rate"], few)
    metrics |= dict.fromkeys(["landmark distance", "HAND-CONF"], none)
    _, accuracy, _, distance, _ = lines({"metrics": metrics}, {})
    assert accuracy.split()[2:] == ["50.0", "%", "75.0", "%", "-", "+25.0"]
    assert distance.split()[2:] == ["0.500", "0.750", "-"]


def test_a_side_without_a_number_keeps_its_column():
    none = {"standard": {"base": None, "fake": {"value": 0.75}, "real": {"value": 0.9}}}
    first = next(line for line in lines({"metrics": dict.fromkeys(METRICS, none)}, {}) if line.startswith("gesture"))
    assert first.split()[2:] == ["-", "75.0", "%", "90.0", "%"]


def test_a_run_that_was_not_evaluated_is_one_sentence(tmp_path: Path):
    with pytest.raises(UserError, match=r"evaluation\.json is missing"):
        main(tmp_path)

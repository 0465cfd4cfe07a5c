import json

import pytest

from handtrain.evaluation.scores import Estimate, Scores

ACCURACY = {
    "unit": "images",
    "n": {"real": 20, "fake": 40, "base": 40},
    "real": {"value": 1.0, "low": None, "high": None},
    "fake": {"value": 0.95, "low": 0.9, "high": 0.99},
    "base": {"value": 0.5, "low": 0.4, "high": 0.6},
    "difference": {"value": 0.45, "low": 0.33, "high": 0.58},
}
RECORD = {
    "fake": {"excluded": {"cannot be decoded": ["a.png", "b.png", "c.png", "d.png"]}, "black": 2},
    "metrics": {
        "FID": {"standard": {"not_computed": "no weights"}, "reference": ACCURACY},
        "gesture accuracy": {"standard": ACCURACY},
        "HAND-CONF": {"standard": {"unit": "hands", "n": {"real": 3, "fake": 0}, "fake": None}},
    },
}


def test_a_score_has_value_interval_and_n_and_prints_them_in_one_line():
    score = Scores(RECORD)["gesture accuracy"]
    assert (score.value, score.interval, score.n, score.unit) == (0.95, (0.9, 0.99), 40, "images")
    assert str(score) == "gesture accuracy: 0.95 [0.9, 0.99], n 40 images"
    assert score.base == Estimate(0.5, (0.4, 0.6)) and score.difference.value == 0.45
    assert score.real == Estimate(1.0, None) and str(score.real) == "1"


def test_a_metric_that_was_not_computed_has_its_reason():
    scores = Scores(RECORD)
    assert scores["FID"].value is None and scores["FID"].reason == "no weights"
    assert str(scores["FID"]) == "FID: not computed: no weights"
    assert scores["HAND-CONF"].reason == "no hand was found in the generated images"


def test_scores_are_a_mapping_of_names_and_another_variant_has_its_own_key():
    scores = Scores(RECORD)
    assert list(scores) == ["FID", "gesture accuracy", "HAND-CONF"] and len(scores) == 3
    assert scores["FID", "reference"].value == 0.95
    with pytest.raises(KeyError):
        scores["gesture accuracy", "reference"]


def test_the_table_has_a_line_per_metric_and_names_excluded_images(tmp_path):
    lines = str(Scores(RECORD)).splitlines()
    assert lines[1].split()[:2] == ["FID", "reference"]
    assert lines[2].split()[:3] == ["gesture", "accuracy", "standard"] and "[0.33, 0.58]   20, 40 images" in lines[2]
    assert lines[4].split() == ["FID", "standard", "not", "computed:", "no", "weights"]  # after all that were computed
    assert lines[-2:] == ["fake: 4 left out: cannot be decoded (a.png, b.png, c.png, ...)", "fake: 2 images are black"]
    Scores(RECORD).write(tmp_path / "deep" / "evaluation.json")
    assert json.loads((tmp_path / "deep" / "evaluation.json").read_text()) == RECORD

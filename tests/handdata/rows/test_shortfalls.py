"""Sentences on shortfalls: why rows were not taken."""

from handdata.rows.shortfalls import of_dataset, of_selection


def test_a_shortfall_of_the_selection_names_the_reasons_with_the_most_frequent_first():
    entry = {"gesture": "ok", "split": "test", "lacking": 4, "not_taken": {"min_hand": 1, "max_per_subject": 38}}
    assert of_selection(entry) == (
        "ok, test: 4 images fewer than requested; not taken: 38 of 39 by max_per_subject, 1 by min_hand"
    )
    assert of_selection({**entry, "not_taken": {}}).endswith("; all annotated images are taken")
    del entry["not_taken"]
    assert of_selection(entry) == "ok, test: 4 images fewer than requested", "of a build of an earlier version"


def test_a_shortfall_of_the_dataset_names_the_reasons_of_the_stages():
    entry = {
        "gesture": "ok",
        "split": "test",
        "asked": 10,
        "there": 8,
        "not_taken": {"caption-empty": 3, "rejected": 1},
    }
    assert of_dataset(entry) == (
        "ok, test: 8 of 10 rows; no spares are left; not taken: 3 of 4 by caption-empty (the captioner returned an"
        " empty caption), 1 by rejected (rejected by a person in the review)"
    )
    assert of_dataset({**entry, "not_taken": {}}) == "ok, test: 8 of 10 rows; no spares are left"

"""The page for people, and their answers compared with each other and with the metric."""

import base64
import io
import json
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from handdata.errors import UserError
from handtrain.raters.people import Hand, agreement, ask, crop, describe, hands_from_csv, page, read_answers
from tests.handdata.builds.test_review import browser, find, keys  # noqa: F401 - browser is a fixture

HEAD = "folder,image,hand,left,top,right,bottom,score,handedness,gesture,p_wrong,fingers,flaw\n"
COLOURS = ("red", "lime", "blue", "yellow", "cyan")


def write_csv(folder: Path, rows: int) -> Path:
    """Write images of one colour with two hands each, and the CSV of a judgement."""
    lines = [HEAD, f"{folder},empty.png,,,,,,,,,1,,\n"]
    for number in range(rows):
        name = f"deep/{number // 2}.png"
        (folder / "deep").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (200, 120), COLOURS[number // 2 % 5]).save(folder / name)
        lines.append(f'{folder},"{name}",{number % 2},10,20,{60 + number},90,0.9,Left,palm,{number / rows},5,\n')
    path = folder / "hands.csv"
    path.write_text("".join(lines))
    return path


def write_answers(folder: Path, rater: str, answers: dict[str, bool]) -> Path:
    path = folder / f"answers-{rater}.json"
    said = {hand: "wrong" if wrong else "right" for hand, wrong in answers.items()}
    path.write_text(json.dumps({"format": 1, "page": "p", "rater": rater, "answers": said}))
    return path


def test_hands_are_read_from_the_csv_and_images_without_hands_left_out(tmp_path):
    hands = hands_from_csv(write_csv(tmp_path, 4))
    assert [hand.path for hand in hands] == [tmp_path / "deep" / f"{number // 2}.png" for number in range(4)]
    assert hands[1].box == (10, 20, 61, 90) and hands[1].p_wrong == 0.25
    assert len({hand.id for hand in hands}) == 4 and hands == hands_from_csv(tmp_path / "hands.csv")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("f,a.png,0,10,20,60,wide,,,,0.5,,", "line 7 has no box or p_wrong"),
        ("f,a.png,0,10,20,5,90,,,,0.5,,", "line 7 has no box or p_wrong"),
        ("f,a.png,0,10,20,60,90,,,,1.5,,", "line 7 has no box or p_wrong"),
        ("f,a.png,0", "line 7 has no box or p_wrong"),
    ],
)
def test_a_row_that_cannot_be_read_is_named(line, words, tmp_path):
    path = write_csv(tmp_path, 4)
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(UserError, match=words):
        hands_from_csv(path)


def test_another_file_is_refused(tmp_path):
    (tmp_path / "other.csv").write_text("image,score\na.png,1\n")
    with pytest.raises(UserError, match="lacks the column folder: name a file of `handtrain judge --csv`"):
        hands_from_csv(tmp_path / "other.csv")
    path = write_csv(tmp_path, 2)
    path.write_text(path.read_text() + path.read_text().splitlines()[2] + "\n")
    with pytest.raises(UserError, match="line 5 has the same hand as an earlier line"):
        hands_from_csv(path)


def shown(path: Path) -> list[dict]:
    data = path.read_text().split('id="data">')[1].split("</script>")[0]
    return json.loads(data)["hands"]


def test_the_page_shows_n_random_hands_without_their_folder_or_score(tmp_path):
    hands = hands_from_csv(write_csv(tmp_path / "secret-model", 10))
    first, again, other = (ask(hands, 6, seed, tmp_path / f"{seed}.html").read_text() for seed in (1, 1, 2))
    assert first == again != other
    assert "secret-model" not in first and "p_wrong" not in first and not re.search(r"src=.?http", first)
    ids = [entry["id"] for entry in shown(tmp_path / "1.html")]
    assert len(set(ids)) == 6 and set(ids) <= {hand.id for hand in hands}
    assert ids != [hand.id for hand in hands if hand.id in ids]
    assert ask(list(reversed(hands)), 6, 1, tmp_path / "r.html").read_text() == first  # the CSV's order is no matter
    by_id = {hand.id: hand for hand in hands}
    for entry in shown(tmp_path / "1.html"):
        image = Image.open(io.BytesIO(base64.b64decode(entry["image"].split(",")[1])))
        number = int(by_id[entry["id"]].path.stem)
        expected = np.array(Image.new("RGB", (1, 1), COLOURS[number % 5]))[0, 0].astype(int)
        assert np.abs(np.asarray(image).reshape(-1, 3).mean(axis=0) - expected).max() < 3


def test_a_crop_is_the_box_with_a_margin_within_the_image():
    gradient = Image.fromarray(np.tile(np.arange(200, dtype=np.uint8)[None, :, None], (120, 1, 3)))
    inside = np.asarray(crop(gradient, (80, 40, 120, 60)))
    assert inside.shape == (60, 60, 3) and (inside[0, 0, 0], inside[0, -1, 0]) == (70, 129)
    assert crop(gradient, (-5, -5, 40, 40)).size == (51, 51)
    assert crop(gradient, (500, 500, 510, 510)).size == (1, 1)
    assert max(crop(Image.new("RGB", (3000, 2000)), (0, 0, 2000, 1000)).size) == 512


def test_mistakes_are_one_sentence(tmp_path):
    hands = hands_from_csv(write_csv(tmp_path, 4))
    with pytest.raises(UserError, match="--ask 5 is not possible: there are 4 hands"):
        ask(hands, 5, 0, tmp_path / "page.html")
    with pytest.raises(UserError, match=r"must end in \.html"):
        ask(hands, 2, 0, tmp_path / "page.json")
    (tmp_path / "deep" / "0.png").unlink()
    with pytest.raises(UserError, match=r"0\.png is missing or cannot be decoded"):
        ask(hands, 4, 0, tmp_path / "page.html")


def test_ids_cannot_become_markup():
    evil = "</script><img src=x onerror=alert(1)>"
    text = page([(evil, Image.new("RGB", (4, 4)))])
    assert "<img src=x" not in text
    assert json.loads(text.split('id="data">')[1].split("</script>")[0])["hands"][0]["id"] == evil


def planted(folder: Path, items: int, right: tuple[float, ...]) -> tuple[list[Hand], list[Path], np.ndarray]:
    """Return hands with a planted metric, and the files of raters who answer rightly with known probabilities."""
    rng = np.random.default_rng(7)
    truth = rng.random(items) < 0.5
    logits = rng.normal(size=items) + np.where(truth, 1.0, -1.0)  # AUC: P(N(2, 2) > 0) = 0.921; accuracy 0.841
    hands = [
        Hand(Path(f"{number}.png"), (0, 0, 9, 9), float(1 / (1 + np.exp(-logit))), f"{number:04d}")
        for number, logit in enumerate(logits)
    ]
    files = []
    for rater, share in enumerate(right):
        answers = {}
        for hand, wrong in zip(hands, truth, strict=True):
            if rng.random() < 0.9:  # a tenth is skipped
                answers[hand.id] = bool(wrong ^ (rng.random() >= share))
        files.append(write_answers(folder, f"rater{rater}", answers))
    return hands, files, truth


def test_planted_agreement_of_people_and_metric_is_recovered(tmp_path):
    hands, files, _ = planted(tmp_path, 2000, (0.9,) * 7)
    result = agreement(files, hands)
    assert result["alpha"]["value"] == pytest.approx(1 - 0.9 * 0.1 / 0.25, abs=0.02)
    assert result["alpha"]["low"] < 0.64 < result["alpha"]["high"] < result["alpha"]["low"] + 0.06
    metric = result["metric"]  # seven people's majority is nearly always the truth
    assert metric["auc"]["value"] == pytest.approx(0.921, abs=0.02)
    assert metric["accuracy"]["value"] == pytest.approx(0.841, abs=0.02)
    assert metric["auc"]["low"] < 0.921 < metric["auc"]["high"]
    assert metric["hands"] + metric["ties"] == result["hands"] and metric["without_p_wrong"] == 0
    assert [rater["name"] for rater in result["raters"]] == [f"rater{number}" for number in range(7)]
    words = describe(result)
    assert "alpha 0.6" in words and "AUC 0.9" in words and "rater0 (" in words


def test_one_person_has_no_alpha_and_hands_without_a_score_no_auc(tmp_path):
    hands = [Hand(Path(f"{n}.png"), (0, 0, 9, 9), None if n < 3 else n / 10, f"h{n}") for n in range(6)]
    one = write_answers(tmp_path, "anna", {"h0": True, "h1": False, "h4": False, "h5": False, "gone": True})
    result = agreement([one], hands)
    assert result["alpha"] == {"not_computed": "no hand has answers of two people"}
    assert result["not_among_the_hands"] == 1 and result["metric"]["without_p_wrong"] == 2
    assert result["metric"]["auc"] == {"not_computed": "people call all hands the same"}
    assert result["metric"]["accuracy"]["value"] == 1.0 and result["metric"]["accuracy"]["low"] < 0.5
    assert "not computed" in describe(result)
    unscored = agreement([write_answers(tmp_path, "bert", {"h0": True})], hands)
    assert unscored["metric"] == {"not_computed": "no hand has both a label and p_wrong"}


def test_answers_of_other_pages_or_of_one_person_twice_are_refused(tmp_path):
    hands = [Hand(Path("a.png"), (0, 0, 9, 9), 0.5, "h0")]
    one = write_answers(tmp_path, "anna", {"h0": True})
    twice = tmp_path / "copy.json"
    shutil.copy(one, twice)
    with pytest.raises(UserError, match="are both by 'anna': leave out one of them"):
        agreement([one, twice], hands)
    with pytest.raises(UserError, match="has no answer about these hands"):
        agreement([write_answers(tmp_path, "bert", {"other": True})], hands)
    for text in ("[]", '{"format": 1, "rater": "x", "answers": {"h0": "maybe"}}', '{"format": 2}'):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(UserError):
            read_answers(tmp_path / "bad.json")


@pytest.mark.slow
def test_a_person_answers_by_keys_and_clicks_and_the_exported_file_is_read(browser, tmp_path):  # noqa: F811
    from selenium.webdriver.common.keys import Keys

    hands = hands_from_csv(write_csv(tmp_path / "images", 6))
    path = ask(hands, 5, 3, tmp_path / "ask.html")
    ids = [entry["id"] for entry in shown(path)]
    browser.get(path.as_uri())
    image = find(browser, "#hand")[0]
    assert browser.execute_script("return arguments[0].complete && arguments[0].naturalWidth > 0", image)
    keys(browser, "w")
    keys(browser, "r")
    keys(browser, "s")  # the third is skipped
    find(browser, "#wrong")[0].click()
    keys(browser, "b")
    assert "given" in find(browser, "#wrong")[0].get_attribute("class")
    keys(browser, "r")  # the fourth is changed
    find(browser, "#export")[0].click()
    assert "Write your name first" in find(browser, "#note")[0].text
    find(browser, "#rater")[0].send_keys("Anna Rw", Keys.ENTER)  # letters of a name are no answers
    assert find(browser, "#count")[0].text == "hand 5 of 5, 3 answered"
    time.sleep(3)  # Chromium stores the page's data in another process, which may lag on a busy machine
    browser.refresh()
    assert find(browser, "#count")[0].text == "hand 3 of 5, 3 answered", "answers survive a reload"
    find(browser, "#export")[0].click()
    file = tmp_path / "downloads" / "answers-Anna-Rw.json"
    for _ in range(100):
        if file.exists() and file.read_text().endswith("}\n"):
            break
        time.sleep(0.1)
    answers = read_answers(file)
    assert answers.rater == "Anna Rw"
    assert answers.wrong == {ids[0]: True, ids[1]: False, ids[3]: False}
    assert agreement([file], hands)["hands"] == 3
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]

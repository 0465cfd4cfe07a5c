import csv
import io
import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import handtrain
from handdata import assets
from handdata.errors import UserError
from handdata.recipe import RenderOptions
from handdata.world.tasks import draw_task, plan
from handtrain.cli import main
from handtrain.cli.flags import Judge
from handtrain.judging import judge as judging
from handtrain.judging.rows import COLUMNS
from handtrain.raters import people
from handtrain.raters.judges import JUDGES
from tests import ROOT
from tests.handtrain.judging.fakes import COLOUR, Finder, judged, write_image


def rows_of(file):
    return list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8"), newline="")))


def test_the_csv_file_has_a_row_per_hand_and_one_for_an_image_without(tmp_path, monkeypatch):
    folder = f"{tmp_path}/in, one"
    write_image(tmp_path / "in, one" / "sub" / "two.png", 90, 30)
    write_image(tmp_path / "in, one" / "none.png")
    judged(folder, monkeypatch, csv=tmp_path / "hands.csv")
    rows = rows_of(tmp_path / "hands.csv")
    head = "folder,image,hand,left,top,right,bottom,score,handedness,gesture,p_wrong,fingers,flaw"
    assert (tmp_path / "hands.csv").read_text(encoding="utf-8").splitlines()[0] == head == ",".join(COLUMNS)
    assert [row["folder"] for row in rows] == [folder] * 3, "as the caller gave it"
    assert rows[0] == dict.fromkeys(COLUMNS, "") | {"folder": folder, "image": "none.png", "p_wrong": "1"}
    assert {name: rows[1][name] for name in COLUMNS[1:9]} == {
        "image": "sub/two.png", "hand": "1", "left": "10", "top": "20", "right": "50", "bottom": "60",
        "score": "0.9", "handedness": "Right",
    }  # fmt: skip
    assert [(row["p_wrong"], row["fingers"], row["flaw"]) for row in rows[1:]] == [
        ("0.1", "5", ""),
        ("0.7", "6", "extra-finger"),
    ]
    assert rows[2]["hand"] == "2" and (rows[2]["left"], rows[2]["right"]) == ("60", "100")


def test_folders_are_ranked_and_compared(tmp_path, monkeypatch):
    for name, scores in (("bad", (40, 60)), ("good", (90, 95)), ("middle", (70, 80))):
        for number, score in enumerate(scores):
            write_image(tmp_path / name / f"{number}.png", score)
    result = judged([tmp_path / name for name in ("bad", "good", "middle")], monkeypatch, json=tmp_path / "all.json")
    assert [entry["folder"].rsplit("/", 1)[1] for entry in result.summaries] == ["good", "middle", "bad"]
    assert [entry["measures"]["p_wrong per image"]["value"] for entry in result.summaries] == pytest.approx(
        [0.075, 0.25, 0.5]
    )
    pairs = {(pair["first"][-3:], pair["second"][-3:]): pair for pair in result.pairs}
    assert list(pairs) == [("bad", "ood"), ("bad", "dle"), ("ood", "dle")]
    assert pairs["bad", "ood"]["measures"]["p_wrong per image"]["value"] == pytest.approx(-0.425)
    record = json.loads((tmp_path / "all.json").read_text())
    assert record["anatomy"]["status"] == "experimental" and record["pairs"] == result.pairs
    (hand,) = record["folders"][0]["images_judged"][0]["hands"]
    assert hand["box"] == [10, 20, 50, 60] and np.shape(hand["landmarks"]) == (21, 3)
    assert max(point[0] for point in hand["landmarks"]) == pytest.approx(50, abs=0.01), "pixels"
    lines = str(result).splitlines()
    assert lines[1].endswith("good") and "0.075 [" in lines[1] and "experimental" in str(result)


def test_without_anatomy_its_columns_are_empty_and_hands_found_rank_the_folders(tmp_path, monkeypatch):
    write_image(tmp_path / "a" / "x.png")
    write_image(tmp_path / "b" / "x.png", 50)
    files = {"json": tmp_path / "all.json", "csv": tmp_path / "hands.csv", "out": tmp_path / "page.html"}
    result = judged([tmp_path / "a", tmp_path / "b"], monkeypatch, anatomy=False, **files)
    assert [entry["folder"][-1] for entry in result.summaries] == ["b", "a"]
    assert "not computed" in str(result) and "not computed" in files["out"].read_text(encoding="utf-8")
    assert "not_computed" in json.loads(files["json"].read_text())["anatomy"]
    assert [(row["p_wrong"], row["fingers"], row["flaw"]) for row in rows_of(files["csv"])] == [
        ("", "", ""),
        ("", "", ""),
    ]


def test_odd_files_are_counted_by_name_and_the_others_are_judged(tmp_path, monkeypatch):
    write_image(tmp_path / "good.png", 80)
    Image.new("RGB", (60, 60)).save(tmp_path / "black.png")
    Image.new("RGB", (60, 60), (200, 10, 10)).save(tmp_path / "red.png")
    Image.new("1", (20_000, 20_000)).save(tmp_path / "huge.png")
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "list.pdf").write_text("no image either")
    result = judged(tmp_path, monkeypatch, out=tmp_path / "page.html")
    (entry,) = result.summaries
    assert (entry["images"], entry["black"], entry["one_colour"], entry["hands"], entry["other_files"]) == (
        3, 1, 1, 1, 1,
    )  # fmt: skip
    assert set(entry["unreadable"]) == {"huge.png", "text.jpg"}
    assert "more than 100,000,000 pixels" in entry["unreadable"]["huge.png"]
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    for text in (page, str(result)):
        assert "Images that cannot be read" in text and "huge.png (" in text and "text.jpg (not an image" in text
        assert "black images: 1, images of another single colour: 1." in text


def test_mistakes_are_one_sentence_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(judging, "_judge_all", lambda *_: pytest.fail("work was begun"))
    write_image(tmp_path / "a" / "x.png", 80)
    (tmp_path / "empty").mkdir()
    for folders, flags, sentence in (
        ([tmp_path / "a", tmp_path / "empty"], {}, "contains no image"),
        ([tmp_path / "none"], {}, "is not a folder"),
        ([], {}, "at least one folder"),
        ([tmp_path / "a", tmp_path / "a"], {}, "named twice"),
        (tmp_path / "a", {"out": tmp_path / "page.pdf"}, r"--out .* must end in \.html"),
        (tmp_path / "a", {"json": tmp_path / "a" / "x.png" / "all.json"}, "--json .* cannot be written"),
        (tmp_path / "a", {"workers": -1}, "--workers -1 must be at least 0"),
    ):
        with pytest.raises(UserError, match=sentence):
            judged(folders, monkeypatch, **flags)


def test_only_unreadable_images_are_one_sentence_but_not_next_to_a_good_folder(tmp_path, monkeypatch):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.png").write_text("nothing")
    with pytest.raises(UserError, match=r"none of the 1 images can be read, the first is x\.png"):
        judged(tmp_path / "bad", monkeypatch)
    write_image(tmp_path / "good" / "x.png", 80)
    result = judged([tmp_path / "bad", tmp_path / "good"], monkeypatch, out=tmp_path / "page.html")
    assert [entry["images"] for entry in result.summaries] == [1, 0] and "-" in str(result).splitlines()[2]


class Green:
    """Another judge: the share of a crop that has the landmarker's colour, times a factor; a tiny crop has none."""

    closed = 0

    def __init__(self, factor="1"):
        self.factor = float(factor)

    def __call__(self, image):
        share = float((image[..., 1] == COLOUR[1]).mean())
        return None if len(image) < 40 else self.factor * share

    def close(self):
        Green.closed += 1


def test_other_judges_see_a_crop_of_every_hand_and_their_scores_are_in_every_file(tmp_path, monkeypatch):
    monkeypatch.setitem(JUDGES, "green", Green)
    monkeypatch.setattr(Green, "closed", 0)
    for folder, hands in (("one", (90, 30)), ("two", (90,))):
        write_image(tmp_path / folder / "x.png", *hands, size=(200, 80))
        write_image(tmp_path / folder / "none.png")
    write_image(tmp_path / "two" / "small.png", 70, side=20)
    files = {"json": tmp_path / "all.json", "csv": tmp_path / "hands.csv", "out": tmp_path / "page.html"}
    result = judged([tmp_path / "one", tmp_path / "two"], monkeypatch, judges=["green:factor=2"], **files)
    rows = rows_of(files["csv"])
    assert list(rows[0]) == [*COLUMNS, "judge_green"] and Green.closed == 1
    scores = {(row["folder"][-3:], row["image"], row["hand"]): row["judge_green"] for row in rows}
    assert scores["one", "none.png", ""] == scores["two", "small.png", "1"] == ""
    crop = np.asarray(people.crop(Image.open(tmp_path / "one" / "x.png"), (60, 20, 100, 60)))
    share = (crop[..., 1] == COLOUR[1]).mean()
    assert share > 0.25 and float(scores["one", "x.png", "2"]) == pytest.approx(2 * share)
    one, two = (
        next(e for e in result.summaries if e["folder"].endswith(n))["measures"]["judge green"] for n in ("one", "two")
    )
    known = [float(scores["one", "x.png", number]) for number in "12"]
    assert one["value"] == pytest.approx(np.mean(known)) and (one["n"], two["n"]) == (2, 1)
    record = json.loads(files["json"].read_text())
    first = next(e for e in record["folders"] if e["folder"].endswith("one"))["images_judged"][1]["hands"][0]
    assert record["judges"] == ["green"] and first["judges"] == {"green": pytest.approx(known[0])}
    page = files["out"].read_text(encoding="utf-8")
    assert "judge green ↓" in page and f"green {known[1]:.2f}" in page and "judge green" in str(result)


def test_judges_that_cannot_be_made_are_one_sentence_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setitem(JUDGES, "green", Green)
    monkeypatch.setattr(judging, "_judge_all", lambda *_: pytest.fail("work was begun"))
    write_image(tmp_path / "a" / "x.png", 80)
    for judges, sentence in (
        (["gren"], "unknown judge 'gren': did you mean 'green'"),
        (["green:size=2"], "the settings of green are: factor"),
        (["green", "green:factor=2"], "--judge names 'green' twice"),
    ):
        with pytest.raises(UserError, match=sentence):
            judged(tmp_path / "a", monkeypatch, judges=judges)


def test_the_flag_judge_names_other_judges(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(JUDGES, "green", Green)
    monkeypatch.setattr(judging, "open_finder", Finder)
    write_image(tmp_path / "a" / "x.png", 90)
    words = ["judge", str(tmp_path / "a"), "--out", str(tmp_path / "p.html"), "--csv", str(tmp_path / "h.csv")]
    monkeypatch.setattr(sys, "argv", ["handtrain", *words, "--no-anatomy", "--judge", "green:factor=3"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0 and "judge green" in capsys.readouterr().out
    assert float(rows_of(tmp_path / "h.csv")[0]["judge_green"]) > 1


# `handtrain judge` without the packages of other extras, whose import fails as if they were not installed
BLOCKED = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
from handtrain.cli import main
sys.argv = ["handtrain", *{words!r}]
main()
"""
OTHERS = ["llama_cpp", "ray", "diffusers", "torch", "torchvision", "transformers", "accelerate", "peft", "safetensors",
          "torch_fidelity", "tensorboard"]  # fmt: skip


@pytest.fixture(scope="module")
def landmarker():
    """Skip a test that needs MediaPipe's model file where that is missing."""
    try:
        assets.path("hand-landmarker")
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory, landmarker):
    """Ten drawn hands in a folder."""
    folder = tmp_path_factory.mktemp("drawn")
    options = RenderOptions(
        ("palm", "call"), train=5, validation=0, test=0, size=96, seed=5, second_hand=0.0, oddities=False
    )
    for number, task in enumerate(plan(options)):
        (folder / f"{number}.jpg").write_bytes(draw_task(task, options)[0])
    return folder


def test_the_command_needs_only_its_own_extra(drawn, tmp_path):
    words = ["judge", str(drawn), "--out", str(tmp_path / "page.html"), "--csv", str(tmp_path / "hands.csv")]
    code = BLOCKED.format(names=OTHERS, words=[*words, "--no-anatomy", "--workers", "1"])
    answer = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.splitlines()[-1] == str(tmp_path / "page.html")
    rows = rows_of(tmp_path / "hands.csv")
    assert len({row["image"] for row in rows}) == 10
    assert sum(row["gesture"] in ("palm", "call") for row in rows) >= 8


def test_the_command_asks_people_about_its_hands_and_compares_their_answers(drawn, tmp_path, capsys):
    out, csv_file = tmp_path / "judge.html", tmp_path / "hands.csv"
    flags = Judge((drawn,), out, csv=csv_file, anatomy=False, workers=1)
    with pytest.raises(UserError, match="--ask and --answers need --csv"):
        replace(flags, csv=None, ask=3)()
    assert replace(flags, ask=3)() == 0
    assert "<script>" in (tmp_path / "judge-people.html").read_text()
    answers = {hand.id: "wrong" if place else "right" for place, hand in enumerate(people.hands_from_csv(csv_file))}
    files = (tmp_path / "a.json", tmp_path / "b.json")
    for rater, file in zip("ab", files, strict=True):
        file.write_text(json.dumps({"format": people.FORMAT, "rater": rater, "page": "x", "answers": answers}))
    capsys.readouterr()
    assert replace(flags, answers=files)() == 0
    assert "between people: Krippendorff's alpha 1.000" in capsys.readouterr().out


def test_the_command_asks_about_all_hands_where_fewer_were_found(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(judging, "open_finder", Finder)
    write_image(tmp_path / "some" / "x.png", 80, 90)
    write_image(tmp_path / "none" / "x.png")
    for name, found in (("some", 2), ("none", 0)):
        flags = Judge((tmp_path / name,), tmp_path / f"{name}.html", csv=tmp_path / "hands.csv", anatomy=False, ask=5)
        assert flags() == 0
        printed = capsys.readouterr().out
        assert "hand-found rate" in printed and f"--ask 5: only {found} hands were found" in printed
        assert (tmp_path / f"{name}-people.html").exists() == bool(found)


def test_the_judgement_is_printed_before_a_mistake_in_the_answers(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(judging, "open_finder", Finder)
    write_image(tmp_path / "some" / "x.png", 80, 90)
    (tmp_path / "a.json").write_text("{}")
    flags = Judge((tmp_path / "some",), tmp_path / "page.html", csv=tmp_path / "hands.csv", anatomy=False)
    with pytest.raises(UserError):
        replace(flags, answers=(tmp_path / "a.json",))()
    assert "hand-found rate" in capsys.readouterr().out


@pytest.mark.slow
def test_thirty_images_of_twelve_sizes_with_a_collage_give_all_nine_of_its_hands(landmarker, tmp_path):
    names = ("call", "fist", "four", "like", "ok", "palm", "peace", "rock", "three")
    options = RenderOptions(names, train=1, validation=0, test=0, size=128, seed=11, second_hand=0.0, oddities=False)
    hands = [Image.open(io.BytesIO(draw_task(task, options)[0])) for task in plan(options)]
    canvas = Image.new("RGB", (384, 384), (40, 40, 40))
    for number, hand in enumerate(hands):
        canvas.paste(hand, (number % 3 * 128, number // 3 * 128))
    canvas.save(tmp_path / "collage.png")
    for number in range(29):
        size = (96 + 16 * (number % 11), 96 + 8 * (number % 11))
        hands[number % 9].resize(size).save(tmp_path / f"{number}.png")
    result = judging.judge(tmp_path, workers=1, anatomy=False)
    assert len(result.images) == 30 and len({(image.width, image.height) for image in result.images}) == 12
    (collage,) = (image for image in result.images if image.name == "collage.png")
    centers = [hand.hand.points()[:, :2].mean(axis=0) // 128 for hand in collage.hands]
    assert len(centers) == 9 == len({tuple(center) for center in centers}), "one hand in each of nine squares"


@pytest.mark.slow
def test_several_processes_give_the_result_of_one_and_end_without_a_word(drawn, tmp_path):
    texts = []
    for workers in (1, 2):
        words = [str(drawn), "--out", tmp_path / "page.html", "--csv", tmp_path / f"{workers}.csv", "--no-anatomy"]
        answer = subprocess.run(
            [sys.executable, "-m", "handtrain", "judge", *map(str, words), "--workers", str(workers)],
            cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        )  # fmt: skip
        assert answer.returncode == 0 and "Traceback" not in answer.stderr, answer.stderr
        texts.append((tmp_path / f"{workers}.csv").read_bytes())
    assert texts[0] == texts[1]


def test_the_shipped_judge_of_anatomy_fills_its_columns(drawn):
    pytest.importorskip("handtrain.judging.anatomy")
    result = judging.judge(drawn, workers=1)
    hands = [hand for image in result.images for hand in image.hands]
    assert len(hands) >= 8 and all(hand.p_wrong is not None and 0 <= hand.p_wrong <= 1 for hand in hands)
    assert result.method is not None and result.method.caveat in str(result)


def test_the_python_function_is_that_of_the_package():
    assert handtrain.judge is judging.judge

import json
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from handdata.errors import UserError
from handtrain.reporting.page import page, spread
from handtrain.reporting.report import markdown, report
from handtrain.reporting.runs import read_run, sweeps
from handtrain.reporting.tables import metric_table


def entry(value: float, low: float, high: float) -> dict:
    return {"value": value, "low": low, "high": high}


def evaluation(folder: Path, mu: float = 0.7, lam: float = 0.7) -> dict:
    fid = {
        "unit": "images",
        "n": {"real": 1000, "fake": 1000, "base": 1000},
        "base": entry(60, 58, 62),
        "fake": {**entry(40, 38, 42), "bias": 3.5},
        "difference": entry(-20, -22, -18),
    }
    confidence = {
        "unit": "hands",
        "n": {"real": 9, "fake": 8},
        "real": entry(0.97, 0.96, 0.98),
        "fake": entry(0.9, 0.8, 0.95),
    }
    return {
        "gesture": "call",
        "preparation": "short side to 512 px",
        "real": {"source": "data:test", "images": 1000, "excluded": {}, "black": 0},
        "fake": {
            "source": str(folder / "tuned"),
            "images": 2,
            "excluded": {"cannot be decoded": ["x.png"]},
            "black": 1,
        },
        "base": {"source": str(folder / "base"), "images": 2, "excluded": {}, "black": 0},
        "settings": {
            "fake": {"mu": mu, "lam": lam, "sessions": [{"images": 2, "seconds": 90.0, "device": "cpu"}]},
            "base": {},
        },
        "metrics": {
            "FID": {"standard": fid, "reference": {**fid}},
            "HAND-CONF": {"standard": confidence},
            "CLIP score": {"standard": {"not_computed": "--clip none"}},
        },
    }


def write_pictures(folder: Path, prompt: str = "a hand") -> None:
    for side, colour in (("base", "red"), ("tuned", "blue")):
        (folder / side).mkdir(parents=True)
        Image.new("RGB", (16, 16), colour).save(folder / side / "0.png")
        line = {"file": "0.png", "prompt": prompt}
        outside = {"file": "../../secret.png", "prompt": "outside"}
        (folder / side / "generation.jsonl").write_text(json.dumps(line) + "\n" + json.dumps(outside) + "\n")
    Image.new("RGB", (8, 8)).save(folder.parent / "secret.png")


def write_run(folder: Path, prompt: str = "a hand", **changes) -> Path:
    folder.mkdir(parents=True)
    write_pictures(folder, prompt)
    options = {"lam": 0.7, "seed": 0}
    config = {"gesture": "call", "base": {"place": "hf:a/<b>"}, "options": options}
    (folder / "run.json").write_text(json.dumps({"config": config, "finished": "2026-11-22T10:00:00Z"}))
    log = [{"stage": 1, "step": 0, "images": 4}]
    log += [
        {"stage": 3, "step": s, "loss": 1 / (s + 1), "lr": 1e-6, "images_per_s": 2.0, "image_id": "x"}
        for s in range(40)
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    (folder / "evaluation.json").write_text(json.dumps(evaluation(folder, **changes)))
    return folder


def test_the_page_holds_everything_and_refers_to_nothing_outside(tmp_path):
    out = tmp_path / "report.html"
    assert report([write_run(tmp_path / "runs" / "one")], out) == out
    text = out.read_text()
    assert text.count("data:image/jpeg;base64,") == 2  # base and tuned; a path outside the folder is ignored
    assert "<svg" in text and "stage 3" in text
    assert not re.search(r"(src|href)='(?!data:)", text) and "<script" not in text
    assert "40 steps, 40 images, 20.0 s" in text and "2 images in 90.0 s on cpu" in text
    assert "fake: 1 images were left out because each cannot be decoded." in text


def test_the_papers_difference_is_next_to_ours_only_for_its_gesture_and_variant(tmp_path):
    rows = metric_table(evaluation(tmp_path)).rows
    assert [row[6] for row in rows[:2]] == ["", "-28.599"]
    assert rows[1][2:6] == ("", "60 [58, 62]", "40 [38, 42]", "-20 [-22, -18]")
    assert (rows[0][7], rows[0][8]) == ("3.5", "1,000, 1,000 images")
    assert rows[2][2:6] == ("0.97", "", "0.9 [0.8, 0.95]", "")
    other = {**evaluation(tmp_path), "gesture": "palm"}
    assert {row[6] for row in metric_table(other).rows} == {""}


def test_the_difference_is_the_coloured_column(tmp_path):
    text = page([read_run(write_run(tmp_path / "run"))], "x", 6)
    assert set(re.findall(r"tr\.(?:better|worse) td:nth-child\((\d+)\)", text)) == {
        str(metric_table(evaluation(tmp_path)).head.index("difference") + 1)
    }


def test_rows_are_marked_better_or_worse_only_if_the_interval_excludes_zero(tmp_path):
    record = evaluation(tmp_path)
    assert metric_table(record).marks == {0: "better", 1: "better", 3: "missing"}
    record["metrics"]["FID"]["standard"]["difference"] = entry(-20, -41, 1)
    record["metrics"]["FID"]["reference"]["difference"] = entry(5, 1, 9)
    assert metric_table(record).marks == {1: "worse", 3: "missing"}


def test_metrics_that_were_not_computed_come_after_the_others(tmp_path):
    record = evaluation(tmp_path)
    record["metrics"] = {"FID-H": {"standard": {"not_computed": "no weights"}}, **record["metrics"]}
    table = metric_table(record)
    assert [row[0][:-2] for row in table.rows] == ["FID", "FID", "HAND-CONF", "FID-H", "CLIP score"]
    assert table.marks == {0: "better", 1: "better", 3: "missing", 4: "missing"}


def test_foreign_text_is_escaped(tmp_path):
    evil = "<script>alert(1)</script> | $body"
    run = read_run(write_run(tmp_path / "run", prompt=evil))
    text = page([run], evil, 6)
    assert "<script>" not in text and "&lt;script&gt;" in text and "hf:a/&lt;b&gt;" in text
    words = markdown([run], evil)
    assert "<script>" not in words and "\\| $body" in words


def test_runs_with_several_lam_or_mu_become_a_sweep(tmp_path):
    folders = [write_run(tmp_path / f"run{lam}", lam=lam) for lam in (0.9, 0.3)]
    runs = [read_run(folder) for folder in folders]
    ((name, gesture, points),) = sweeps(runs)
    assert (name, gesture, [value for value, _ in points]) == ("lam", "call", [0.3, 0.9])
    text = page(runs, "x", 6)
    assert "Sweep over lam: call" in text and text.count("data:image/jpeg") == 6
    second = folders[0] / "evaluation-mu.json"
    second.write_text(json.dumps(evaluation(folders[0], mu=0.2, lam=0.9)))
    assert {name for name, _, _ in sweeps([read_run(folders[0])])} == {"mu"}


def test_a_run_that_train_returned_is_reported_like_its_folder(tmp_path):
    folder = write_run(tmp_path / "run")
    pages = [report([run], tmp_path / "report.html").read_text() for run in (str(folder), SimpleNamespace(path=folder))]
    assert pages[0] == pages[1]


def test_few_pictures_show_many_prompts():
    prompts = {"a-s0": "a", "a-s1": "a", "a-s2": "a", "b-s0": "b", "b-s1": "b", "c-s0": "c"}
    assert spread(prompts) == ["a-s0", "b-s0", "c-s0", "a-s1", "b-s1", "a-s2"]


def test_a_run_without_an_evaluation_names_the_command(tmp_path):
    folder = write_run(tmp_path / "run")
    (folder / "evaluation.json").unlink()
    assert "Not evaluated yet" in page([read_run(folder)], "x", 6)


def test_missing_pictures_are_reported(tmp_path):
    folder = write_run(tmp_path / "run")
    (folder / "tuned" / "0.png").unlink()
    assert "No pictures:" in page([read_run(folder)], "x", 6)


@pytest.mark.parametrize(("out", "sentence"), [("x.pdf", "must end in .html"), ("x.html", "is not a run folder")])
def test_mistakes_are_one_sentence(out, sentence, tmp_path):
    with pytest.raises(UserError, match=sentence):
        report([tmp_path], tmp_path / out)


@pytest.mark.slow
def test_the_page_opens_from_disk_in_a_browser(tmp_path):
    import shutil

    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("needs chromium: apt-get install chromium")
    report([write_run(tmp_path / "run")], tmp_path / "report.html")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    answer = subprocess.run(
        [browser, *options, (tmp_path / "report.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    assert (
        "<h2>call: run</h2>" in answer.stdout and "violates the following Content Security Policy" not in answer.stderr
    )


def test_the_phases_of_the_last_process_are_a_table(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    record = json.loads((run / "run.json").read_text())
    phases = {"export": {"seconds": 3.0, "read": 0, "written": 2**30}}
    (run / "run.json").write_text(json.dumps({**record, "sessions": [{}, {"phases": phases}]}))
    report([run], tmp_path / "report.html")
    assert "<td colspan=1>1,024 MiB</td>" in (tmp_path / "report.html").read_text()
    assert "| export | 3.0 s | 100% |" in (tmp_path / "report.md").read_text()
    (run / "run.json").write_text(json.dumps({**record, "sessions": [{"phases": {"export": 3}}]}))
    report([run], tmp_path / "report.html")
    assert "Phases" not in (tmp_path / "report.html").read_text()


def test_a_page_shows_differences_then_pictures_then_tables_and_folds_rows_that_were_not_computed(tmp_path):
    text = page([read_run(write_run(tmp_path / "run"))], "Report", 4)
    chart, pictures = text.index("Tuned minus base"), text.index("Same prompts, same seeds")
    table, folded, reason = text.index("<th>metric"), text.index("<details>"), text.index("not computed: --clip none")
    assert chart < pictures < table < folded < reason < text.index("</details>")
    assert text.count("not computed: --clip none") == 1
    run = write_run(tmp_path / "one-side")
    record = evaluation(run)
    for variants in record["metrics"].values():
        for values in variants.values():
            values.pop("difference", None)
    (run / "evaluation.json").write_text(json.dumps(record))
    assert "Tuned minus base" not in page([read_run(run)], "Report", 4)

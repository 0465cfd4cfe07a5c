import re
import shutil
import subprocess

import pytest

from handtrain.judging.chart import chart
from tests.handtrain.judging.fakes import judged, write_image

EVIL = "<script>alert(1)</script>"


def page_of(tmp_path, monkeypatch, folders=("a", "b"), **flags):
    for number, name in enumerate(folders):
        for index in range(4):
            write_image(tmp_path / name / f"{index}.png", 20 + 20 * index + number)
        write_image(tmp_path / name / "none.png")
        (tmp_path / name / "0.txt").write_text(f"a hand {EVIL}")
    judged([tmp_path / name for name in folders], monkeypatch, out=tmp_path / "page.html", **flags)
    return (tmp_path / "page.html").read_text(encoding="utf-8")


def test_names_and_prompts_are_escaped_and_nothing_is_loaded(tmp_path, monkeypatch):
    page = page_of(tmp_path, monkeypatch, ("a & <b>", "c"))
    assert EVIL not in page and "&lt;script&gt;" in page
    assert "a &amp; &lt;b&gt;" in page and "<b>/" not in page
    urls = set(re.findall(r"(?:src|href)='(.{10})", page))
    assert urls == {"data:image"} and "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")


def test_worst_and_best_hands_are_shown_by_p_wrong_and_none_in_both(tmp_path, monkeypatch):
    page = page_of(tmp_path, monkeypatch, ("a",), crops=2)
    worst, best = (
        re.search(rf"<div class='hands {name}'>(.*?)</div>", page, re.DOTALL)[1] for name in ("worst", "best")
    )
    assert re.findall(r"<b>([\d.]+)</b>", worst) == ["0.80", "0.60"]
    assert re.findall(r"<b>([\d.]+)</b>", best) == ["0.20", "0.40"]
    assert "extra-finger, 6 fingers" in worst and "5 fingers" in best
    assert "Images without a found hand" in page and "none.png" in page
    assert "HAND-CONF, the confidence" in page and "experimental" in page


def test_the_first_row_is_the_best_folder_and_a_clear_difference_is_marked(tmp_path, monkeypatch):
    page = page_of(tmp_path, monkeypatch)
    assert re.findall(r"<td>(\d)</td><td class=name>.*?/(\w)</td>", page) == [("1", "b"), ("2", "a")]
    assert "class='better'>-0.0" in page


def test_the_chart_has_a_dot_per_folder_and_measure_inside_its_panel(tmp_path, monkeypatch):
    for name, score in (("a", 30), ("b", 90)):
        write_image(tmp_path / name / "0.png", score)
        write_image(tmp_path / name / "1.png", score + 5)
    result = judged([tmp_path / "a", tmp_path / "b"], monkeypatch)
    svg = chart(result.summaries, result.chosen())
    places = [float(x) for x in re.findall(r"<circle cx='([\d.]+)'", svg)]
    assert len(places) == 12 and all(170 <= x <= 1150 for x in places)
    assert places[0] < places[1], "b is the better one and the first: a smaller p_wrong is further left"
    assert chart([{"folder": "x", "measures": {}}], result.chosen()) == ""


@pytest.mark.slow
def test_the_page_opens_from_disk_in_a_browser(tmp_path, monkeypatch):
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("needs chromium: apt-get install chromium")
    page_of(tmp_path, monkeypatch)
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    answer = subprocess.run(
        [browser, *options, (tmp_path / "page.html").as_uri()], capture_output=True, text=True, timeout=100, check=True
    )
    assert answer.stdout.count("<figure>") == 10 and "</svg>" in answer.stdout
    assert "violates the following Content Security Policy" not in answer.stderr

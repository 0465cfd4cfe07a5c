"""The review page: escaped rows, decisions that are applied once, and a person at work in a real browser."""

import json
import shutil
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from handdata.builds import review
from handdata.builds.build import Build
from handdata.errors import UserError
from handdata.recipe import Recipe
from handdata.rows import decisions
from handdata.rows.schema import shard_schema
from handdata.rows.shards import shard_path, write_table
from tests.builds import make_build

EVIL = "<script>document.title='broken'</script><img src=x onerror=\"document.title='broken'\"> &amp; </script>"


def reviewed(folder: Path, rows: int) -> Path:
    """Write a build whose stages up to `rewrite` are done, with markup in a caption."""
    build = make_build(folder / "build", rows, size=64)
    Build.start(Recipe("drawn"), build)
    manifest = pq.read_table(build / "manifest.parquet").to_pylist()
    phrases = {"call": "making phone call hand gesture", "ok": "making ok hand gesture"}
    for shard in range(-(-rows // 256)):
        part = manifest[shard * 256 : shard * 256 + 256]
        ids = {"image_id": [row["image_id"] for row in part], "reason": pa.array([None] * len(part), pa.string())}
        hand = [[0.3 + 0.02 * n, 0.3 + 0.015 * n, 0.0] for n in range(21)]
        write_shard(
            build, "landmarks", shard, {**ids, "hand_landmarks": [[hand]] * len(part), "gesture_hand": [0] * len(part)}
        )
        captions = [EVIL if n == 1 else f"a man in picture {n}" for n in range(len(part))]
        write_shard(build, "captions", shard, {**ids, "caption": captions})
        texts = [f"{caption} {phrases[row['gesture']]}" for caption, row in zip(captions, part, strict=True)]
        ways = ["template" if n % 5 == 0 else "llm" for n in range(len(part))]
        drafts = [["caption:phrase-missing"]] * len(part)
        write_shard(build, "texts", shard, {**ids, "text": texts, "rewrite": ways, "draft_checks": drafts})
    return build


def write_shard(build: Path, stage: str, shard: int, columns: dict) -> None:
    """Write a stage's shard; the columns that are not given are null."""
    table = pa.Table.from_pylist(pa.table(columns).to_pylist(), schema=shard_schema(stage))
    write_table(table, shard_path(build, stage, shard))


def ids_of(build):
    return pq.read_table(build / "manifest.parquet")["image_id"].to_pylist()


def test_markup_in_a_row_is_escaped(tmp_path):
    build = reviewed(tmp_path, 3)
    page = Build.open(build).review().read_text(encoding="utf-8")
    assert "<script>document" not in page and "<img src=x" not in page
    data = page.split('id="data">')[1].split("</script>")[0]
    assert json.loads(data)["rows"][1]["caption"] == EVIL
    assert "'unsafe-inline'" not in page.split("script-src")[1].split('"')[0]


def test_a_build_without_texts_has_nothing_to_review(tmp_path):
    build = make_build(tmp_path, 2)
    with pytest.raises(UserError, match="handdata rewrite"):
        review.write_page(build)


def exported(folder, *entries):
    path = folder / "decisions.jsonl"
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


def test_decisions_are_added_once(tmp_path):
    build = reviewed(tmp_path, 4)
    first, second, third, _ = ids_of(build)
    text = "a very tall man making phone call hand gesture"
    path = exported(
        tmp_path,
        {"what": "accepted", "image_id": first},
        {"what": "rejected", "image_id": second},
        {"what": "edited", "image_id": third, "text": text},
    )
    assert Build.open(build).apply_review(path) == review.Applied(new=3, known=0)
    assert Build.open(build).apply_review(path) == review.Applied(new=0, known=3)
    held = decisions.replay(build)
    assert [held.about(image_id, "") for image_id in (first, second, third)] == ["accepted", "rejected", "edited"]
    assert held.text(third) == text
    assert [row["decision"] for row in review.read_rows(build)][:3] == ["accepted", "rejected", "edited"]


def test_an_unfit_text_or_a_foreign_file_changes_nothing(tmp_path):
    build = reviewed(tmp_path, 2)
    first, second = ids_of(build)
    good = {"what": "accepted", "image_id": second}
    for entry, words in (
        ({"what": "edited", "image_id": first, "text": "a man"}, "fails the checks"),
        ({"what": "edited", "image_id": first, "text": "a fist making phone call hand gesture"}, "another gesture"),
        ({"what": "accepted", "image_id": "nobody"}, "not in"),
        ({"what": "eaten", "image_id": first}, "one of accepted"),
        (["no", "decision"], "line 2 is not a decision that the review page exported"),
    ):
        with pytest.raises(UserError, match=words):
            review.apply_decisions(build, exported(tmp_path, good, entry))
    assert decisions.replay(build).images == {}
    with pytest.raises(UserError, match=r"--apply .*none\.jsonl does not exist"):
        review.apply_decisions(build, tmp_path / "none.jsonl")


@pytest.fixture
def browser(tmp_path):
    """Headless Chromium with a folder for downloads, or a skip with its reason."""
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("chromium and chromedriver are not installed: apt-get install chromium chromium-driver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    switches = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking"
    profile = tempfile.mkdtemp(dir=tmp_path)
    switches += f" disable-component-update disable-sync window-size=1280,900 user-data-dir={profile}"
    for switch in switches.split():
        options.add_argument(f"--{switch}")
    options.add_experimental_option("prefs", {"download.default_directory": str(tmp_path / "downloads")})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    yield driver
    driver.quit()


def keys(driver, text):
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(driver).send_keys(text).perform()


def find(driver, selector):
    from selenium.webdriver.common.by import By

    return driver.find_elements(By.CSS_SELECTOR, selector)


@pytest.mark.slow
def test_a_person_accepts_rejects_edits_and_exports_and_the_build_follows(browser, tmp_path):
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import Select

    build = reviewed(tmp_path, 40)
    first, second, third, fourth = ids_of(build)[:4]
    review.write_page(build)
    browser.get((build / "review.html").as_uri())
    assert browser.title == "Review of build", "nothing in a caption was run"
    assert len(find(browser, "article")) == 40
    images = find(browser, "article img")
    assert browser.execute_script("return arguments[0].complete && arguments[0].naturalWidth > 0", images[0])
    assert len(find(browser, f"#row-{first} svg .joint")) == 1 and find(browser, f"#row-{first} svg .box")

    keys(browser, "a")  # accept the first, which moves on; reject the second; edit the third
    keys(browser, "r")
    keys(browser, "e")
    area = find(browser, "textarea")[0]
    area.clear()
    area.send_keys("a man", Keys.ENTER)
    assert "must hold" in find(browser, ".wrong")[0].text
    area.clear()
    text = "a tall man making phone call hand gesture"
    area.send_keys(text, Keys.ENTER)
    find(browser, f"#row-{fourth} button")[1].click()  # a click rejects too
    assert "rejected" in find(browser, f"#row-{fourth}")[0].get_attribute("class")
    keys(browser, "u")
    ids = (first, second, third, fourth)
    classes = {image_id: find(browser, f"#row-{image_id}")[0].get_attribute("class") for image_id in ids}
    assert "accepted" in classes[first] and "rejected" in classes[second] and "edited" in classes[third]
    assert "rejected" not in classes[fourth]

    time.sleep(1)  # Chromium stores the page's data in another process, which may lag on a busy machine
    browser.refresh()
    assert "accepted" in find(browser, f"#row-{first}")[0].get_attribute("class"), "decisions survive a reload"
    assert text in find(browser, f"#row-{third} .text")[0].text
    Select(find(browser, "#gesture")[0]).select_by_value("ok")
    assert len(find(browser, "article")) == 20
    Select(find(browser, "#remark")[0]).select_by_value("text:template")
    assert len(find(browser, "article")) == 4
    Select(find(browser, "#decision")[0]).select_by_value("accepted")
    assert find(browser, "#empty")

    find(browser, "#export")[0].click()
    path = tmp_path / "downloads" / "decisions-build.jsonl"
    for _ in range(100):
        if path.exists() and path.read_text().count("\n") == 3:
            break
        time.sleep(0.1)
    review.apply_decisions(build, path)
    held = decisions.replay(build)
    assert [held.about(image_id, "") for image_id in ids] == ["accepted", "rejected", "edited", None]
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


@pytest.mark.slow
def test_500_rows_stay_fluid(browser, tmp_path):
    build = reviewed(tmp_path, 520)
    review.write_page(build)
    browser.get((build / "review.html").as_uri())
    assert len(find(browser, "article")) == 500 and "20 more" in find(browser, "#more")[0].text
    pressed = """
        const start = performance.now();
        for (const key of "jajrjajrjk".repeat(10)) document.dispatchEvent(new KeyboardEvent("keydown", { key }));
        document.body.getBoundingClientRect();
        return (performance.now() - start) / 100;
    """
    took = min(browser.execute_script(pressed) for _ in range(3))
    assert took < 50, f"{took:.1f} ms a key"
    redrawn = "const start = performance.now(); draw(); document.body.offsetHeight; return performance.now() - start;"
    assert min(browser.execute_script(redrawn) for _ in range(3)) < 2000

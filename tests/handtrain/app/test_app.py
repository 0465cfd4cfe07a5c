"""The app: its models, hands and rows, and the page in a browser, which sends nothing to other hosts."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from handdata.builds.build import Build
from handdata.errors import UserError
from handdata.recipe import RenderOptions
from handdata.stages import assemble
from handdata.world.render import draw
from handtrain.app import hands, page
from handtrain.app.drawing import NO_POSE, OWN_POSE, Drawing
from handtrain.app.models import Models
from handtrain.app.rows import Rows
from handtrain.generation.generate import generate
from handtrain.generation.poses import read_pose
from tests import ROOT
from tests.finished import QUIET, finished_build
from tests.handtrain.tiny import SIDE
from tests.handtrain.tiny_z import write_z_base
from tests.handtrain.training.test_pose_training import PLUS


@pytest.fixture(scope="module")
def posed(train: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(train(tmp_path_factory.mktemp("app") / "run", **PLUS).model)


@pytest.fixture(scope="module")
def models(posed: Path, base: Path) -> Models:
    return Models(str(posed), str(base), "cpu")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("published")
    build = finished_build(root / "build", {"train": 3, "validation": 1, "test": 2})
    assemble.run(build, Build.open(build).recipe, QUIET)
    return Path(Build.open(build).publish(root / "hands").place)


@pytest.fixture(scope="module")
def palm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn open palm."""
    folder = tmp_path_factory.mktemp("palm")
    draw(RenderOptions(gestures=("palm",), train=1, validation=0, test=0, size=256, oddities=False), folder, 1, False)
    shutil.unpack_archive(folder / "palm.zip", folder / "images")
    return next((folder / "images").rglob("*.jpg"))


@pytest.mark.slow
def test_both_models_draw_the_same_noise_and_the_pose_changes_only_the_trained_one(models: Models) -> None:
    prompt = f"a person {models.phrases['call']}"
    assert models.poses[:3] == [OWN_POSE, NO_POSE, "call 1"] and models.phrases == {"call": prompt[9:]}
    first, again, posed, own = (
        models.draw(Drawing(prompt, seed=1, steps=2, pose=pose))
        for pose in (NO_POSE, NO_POSE, models.poses[2], OWN_POSE)
    )
    assert [np.array_equal(*pair) for pair in zip(first, again, strict=True)] == [True, True]
    assert [np.array_equal(*pair) for pair in zip(first, posed, strict=True)] == [True, False]
    assert [np.array_equal(*pair) for pair in zip(first, own, strict=True)] == [True, False]


@pytest.mark.slow
def test_the_pose_of_a_photograph_is_that_of_the_command(models: Models, palm: Path, tmp_path: Path) -> None:
    """As `generate --pose PHOTO`, also for a photograph that its EXIF turns."""
    with Image.open(palm) as upright:
        exif = upright.getexif()
        exif[0x0112] = 6  # to be turned by 90 degrees
        upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
        upright.save(tmp_path / "upright.png")
    poses = [read_pose(tmp_path / name) for name in ("upright.png", "turned.png")]
    assert np.array_equal(*poses)
    chosen, left_open = (
        models.draw(Drawing("a person", seed=1, steps=2, pose=pose, photograph=photograph))
        for pose, photograph in ((models.poses[2], str(tmp_path / "turned.png")), (NO_POSE, None))
    )
    assert [np.array_equal(*pair) for pair in zip(chosen, left_open, strict=True)] == [True, False]
    expected = models._tuned(
        "a person", poses=torch.from_numpy(poses[0]), pose_guidance=2.0, num_inference_steps=2, guidance_scale=3.0,
        mu=1.0, generator=torch.Generator().manual_seed(1),
    )  # fmt: skip
    assert np.array_equal(chosen[1], expected.images[0])


def test_the_hand_of_a_photograph_is_shown_in_its_square_and_a_wall_has_none(palm: Path, tmp_path: Path) -> None:
    with Image.open(palm) as image:
        wide = Image.new("RGB", (image.width * 2, image.height), image.getpixel((2, 2)))
        wide.paste(image, (image.width // 2, 0))
        wide.save(tmp_path / "wide.png")
    shown = hands.posed(tmp_path / "wide.png")
    assert shown.size == (512, 512) and (np.asarray(shown) == (0x22, 0xAA, 0x88)).all(axis=2).sum() > 500
    Image.new("RGB", (64, 64), "grey").save(tmp_path / "wall.png")
    with pytest.raises(UserError, match="the photograph: no hand is found"):
        hands.posed(tmp_path / "wall.png")
    (tmp_path / "text.png").write_text("text")
    with pytest.raises(UserError, match="the photograph cannot be read as an image"):
        hands.posed(tmp_path / "text.png")


@pytest.mark.slow
def test_the_page_shows_the_fields_of_a_pose_for_models_with_pose_layers_only() -> None:
    for poses, fields in (([], 0), ([OWN_POSE, NO_POSE, "call 1"], 4)):
        models = SimpleNamespace(phrases={"call": "c"}, poses=poses, guidance=3.0, mu=1.0, name="m", base_name="b")
        config = page.build(models, None).config  # type: ignore[arg-type]
        parts = {part["id"]: part for part in config["components"]}
        shown = [label for label in _labels(config["layout"], parts) if re.search("[Pp]ose|photograph", label)]
        assert len(shown) == fields, shown


def _labels(layout: dict[str, Any], parts: dict[int, Any]) -> Iterator[str]:
    """Yield the labels of the visible fields below a node of Gradio's layout."""
    properties = parts[layout["id"]]["props"] if "id" in layout and layout["id"] in parts else {}
    if properties.get("visible", True):
        yield from [properties["label"]] if properties.get("label") else []
        for child in layout.get("children") or ():
            yield from _labels(child, parts)


def test_pictures_have_the_side_of_the_training(train: Callable[..., Any], base: Path, tmp_path: Path) -> None:
    run = train(tmp_path / "run", resolution=SIDE * 2)
    models = Models(str(run.model), str(base), "cpu")
    assert [picture.size for picture in models.draw(Drawing("a person", steps=2))] == [(SIDE * 2, SIDE * 2)] * 2


def test_a_z_image_draws_as_the_command_does(train: Callable[..., Any], tmp_path: Path) -> None:
    """It has neither mu nor poses, and its pipeline's scale of guidance counts from 0."""
    z = write_z_base(tmp_path / "base")
    model = str(train(tmp_path / "run", base=z, lam=1.0).model)
    drawn = Models(model, str(z), "cpu").draw(Drawing("a person", seed=3, steps=2, guidance=4.0))
    for place, picture in zip((z, model), drawn, strict=True):
        out = generate(place, prompt="a person", seeds=(3,), steps=2, guidance=4.0, out=tmp_path / str(place is z),
                       device="cpu")  # fmt: skip
        with Image.open(out / "image-s3.png") as saved:
            assert np.array_equal(saved, picture)


def test_a_base_cannot_be_the_trained_model(base: Path) -> None:
    with pytest.raises(UserError, match="was not trained by handtrain"):
        Models(str(base), None, "cpu")


def test_the_hands_of_a_picture_are_judged_and_drawn_on_it(palm: Path) -> None:
    picture, rows = hands.judged(palm)
    assert picture.size == (512, 512), "small pictures are enlarged"
    assert [len(row) for row in rows] == [len(hands.HEAD)] and rows[0][1] in ("palm", "stop")
    assert 0 <= float(rows[0][3]) <= 1
    with Image.open(palm) as plain:
        assert not np.array_equal(picture, hands.enlarged(plain))


def test_a_file_that_is_no_image_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("text")
    with pytest.raises(UserError, match="the picture cannot be read"):
        hands.judged(tmp_path / "a.png")


@pytest.mark.slow
def test_rows_have_their_image_with_boxes_and_their_columns(published: Path) -> None:
    rows = Rows(str(published))
    picture, columns = rows[0]
    named = dict(columns)
    assert len(rows) >= 3 and max(picture.size) == 512
    assert named["gesture"] in named["labels"] and named["gesture_phrase"] in named["text"]
    assert (np.asarray(picture) == (0xEE, 0x66, 0x00)).all(axis=2).any(), "a box is drawn"
    with pytest.raises(UserError, match="unknown split 'tran': did you mean 'train'"):
        Rows(str(published), "tran")


def test_a_prompt_names_the_gesture_once() -> None:
    assert page.with_phrase("a man. ", "making ok hand gesture") == "a man, making ok hand gesture"
    assert page.with_phrase("a man, making ok hand gesture", "making ok hand gesture").count("making") == 1
    assert page.with_phrase("a man", None) == "a man"
    assert page._plain("<b>*x*</b>") == r"\<b\>\*x\*\</b\>"


def test_the_space_names_what_the_package_has() -> None:
    front = (ROOT / "space/README.md").read_text(encoding="utf-8").split("---")[1]
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    assert f"sdk_version: {pinned['gradio']}" in front and "app_file: app.py" in front
    assert (ROOT / "space/requirements.txt").read_text() == "hand1000[train,app]\n"
    compile((ROOT / "space/app.py").read_text(encoding="utf-8"), "app.py", "exec")


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium and chromium-driver")
def test_the_page_works_in_a_browser_and_asks_no_other_host(
    posed: Path, base: Path, published: Path, palm: Path, tmp_path: Path
) -> None:
    port = _free_port()
    command = ["-m", "handtrain", "app", "--model", str(posed), "--base", str(base), "--dataset", str(published)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GRADIO_TEMP_DIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, *command, "--port", str(port), "--device", "cpu"], env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as server:  # fmt: skip
        try:
            _wait_for(f"http://127.0.0.1:{port}/", server)
            _use(f"http://127.0.0.1:{port}/", palm)
            assert _listens_only_here(port)
        finally:
            server.terminate()


def _wait_for(address: str, server: Any) -> None:
    for _ in range(600):
        try:
            with urllib.request.urlopen(address) as answer:
                assert "script-src 'self'" in answer.headers["content-security-policy"]
                return
        except OSError:
            assert server.poll() is None, server.stdout.read()
            time.sleep(0.2)
    raise AssertionError("the page does not appear")


def _listens_only_here(port: int) -> bool:
    """Return whether the port is bound to the loopback address alone (/proc/net/tcp, addresses in hexadecimal)."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    bound = {line.split()[1] for line in lines if line.split()[3] == "0A"}  # LISTEN
    return {address for address in bound if address.endswith(f":{port:04X}")} == {f"0100007F:{port:04X}"}


def _use(address: str, picture: Path) -> None:
    from selenium import webdriver
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    options = webdriver.ChromeOptions()
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1200,1100",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    options.binary_location = str(shutil.which("chromium"))
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        driver.get(address)
        wait = WebDriverWait(driver, 60)

        def click(path: str) -> None:
            wait.until(lambda _: driver.find_elements(By.XPATH, path))[0].click()

        find = "#{} input[type=file]".format
        wait.until(lambda _: driver.find_elements(By.CSS_SELECTOR, find("pose")))[0].send_keys(str(picture))
        wait.until(lambda _: len(driver.find_elements(By.CSS_SELECTOR, "img")) >= 1)
        click("//button[normalize-space()='Generate' and contains(@class, 'primary')]")
        wait.until(lambda _: len(driver.find_elements(By.CSS_SELECTOR, "img")) >= 3)
        click("//button[@role='tab' and contains(., 'Judge')]")
        wait.until(lambda _: driver.find_elements(By.CSS_SELECTOR, find("judged")))[0].send_keys(str(picture))
        wait.until(lambda _: "Right" in driver.page_source or "Left" in driver.page_source)
        click("//button[@role='tab' and contains(., 'Dataset')]")
        wait.until(lambda _: "image_id" in driver.page_source)
        severe = [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
        sent = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    finally:
        driver.quit()
    asked = [each["params"]["request"]["url"] for each in sent if each["method"] == "Network.requestWillBeSent"]
    assert severe == [] and len(asked) > 10
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []

"""The wheel carries prompts and manifests, and finds them where it is installed."""

import subprocess
import sys
from pathlib import Path

import pytest

from handdata.gestures import gestures
from tests import ROOT


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """Build the wheel and unpack it, as pip does, into a folder of its own."""
    folder = tmp_path_factory.mktemp("wheel")
    build = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", build, str(folder)], cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("hand1000-*.whl")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target"]
    subprocess.run([*command, str(folder / "site"), str(wheel)], check=True, capture_output=True)
    return folder / "site"


def test_prompts_and_manifests_are_read_from_the_installed_wheel(installed, tmp_path):
    code = (
        "import handdata.shipped as r, handdata.gestures as g, handdata.assets as a\n"
        "print(r.__file__); print(len(g.gestures()), len(a.assets()))"
    )
    environment = {"PYTHONPATH": str(installed), "PATH": "/usr/bin:/bin"}
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    place, counts = answer.stdout.splitlines()
    assert place.startswith(str(installed))
    assert counts.split()[0] == str(len(gestures()))


def test_the_wheel_holds_the_two_packages_and_nothing_else_of_the_checkout(installed):
    top = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")}
    assert top == {"handdata", "handtrain", "bin"}
    shipped = {
        path.name
        for folder in ("prompts", "manifests", "models")
        for path in (ROOT / folder).rglob("*")
        if path.is_file()
    }
    packed = {path.name for path in (installed / "handdata" / "_data").rglob("*") if path.is_file()}
    assert packed == shipped


def test_every_module_and_page_of_the_packages_is_in_the_wheel(installed):
    for package in ("handdata", "handtrain"):
        ours = {path.name for path in (ROOT / package).iterdir() if path.is_file()}
        assert ours <= {path.name for path in (installed / package).iterdir()}

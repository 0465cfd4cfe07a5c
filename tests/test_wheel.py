"""The wheel carries prompts and manifests, and finds them where it is installed; extras are complete.

`site_of` makes the packages that pip would install for an extra into a folder of links. A Python that sees nothing but
this folder and the standard library stands for a clean environment.
"""

import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from handdata import assets
from handdata.errors import UserError
from handdata.gestures import gestures
from tests import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
IMPORT_ALL = """
import importlib, pkgutil, {package}
names = [module.name for module in pkgutil.walk_packages({package}.__path__, "{package}.")]
names = [name for name in names if not name.startswith({others!r}) and not name.endswith("__main__")]
for name in names: importlib.import_module(name)
print(len(names))
"""


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


@pytest.mark.slow
def test_a_wheel_from_the_source_archive_holds_the_files_of_one_from_the_checkout(installed, tmp_path):
    build = "import sys, hatchling.build as b; print(getattr(b, 'build_' + sys.argv[1])(sys.argv[2]))"
    subprocess.run([sys.executable, "-c", build, "sdist", str(tmp_path)], cwd=ROOT, check=True, capture_output=True)
    (archive,) = tmp_path.glob("hand1000-*.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path, filter="data")
    source = tmp_path / archive.name.removesuffix(".tar.gz")
    subprocess.run([sys.executable, "-c", build, "wheel", str(tmp_path)], cwd=source, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("hand1000-*.whl")
    with zipfile.ZipFile(wheel) as opened:
        packed = {name for name in opened.namelist() if ".dist-info/" not in name}
    files = {str(path.relative_to(installed)) for name in ("handdata", "handtrain")
             for path in (installed / name).rglob("*") if path.is_file() and path.suffix != ".pyc"}  # fmt: skip
    assert packed == files and len(files) > 300


def packages_of(extras: set[str]) -> set[str]:
    """Return the names of all packages that pip installs for `hand1000[extras]`, dependencies of dependencies too."""
    optional = PROJECT["optional-dependencies"]
    lines = [*PROJECT["dependencies"], *(line for name in extras for line in optional[name])]
    waiting = [Requirement(line) for line in lines]
    seen: set[tuple[str, str]] = set()  # (package, extra of it)
    while waiting:
        wanted = waiting.pop()
        for extra in {"", *wanted.extras}:
            if (wanted.name, extra) not in seen:
                seen.add((wanted.name, extra))
                needs = [Requirement(line) for line in distribution(wanted.name).requires or ()]
                waiting += [need for need in needs if not need.marker or need.marker.evaluate({"extra": extra})]
    return {name for name, _ in seen}


def site_of(folder: Path, *extras: str) -> Path:
    """Link the packages of `extras`, and no others, into `folder`."""
    folder.mkdir()
    for name in packages_of(set(extras)):
        package = distribution(name)
        for top in {file.parts[0] for file in package.files or ()} - {"..", "__pycache__"}:
            link, target = folder / top, Path(str(package.locate_file(top)))
            if target.exists() and not link.exists():
                link.symlink_to(target)
    return folder


def run_in(site: Path, *words: str, folder: Path) -> str:
    """Run Python with the packages of `site` alone and this checkout; return what it prints."""
    environment = {**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{ROOT}", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-S", *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_packages_of_an_extra_are_those_of_its_table():
    judge, data = packages_of({"judge"}), packages_of({"data"})
    assert {"mediapipe", "torch", "datasets", "pyarrow"} <= judge
    assert "diffusers" not in judge and "llama-cpp-python" in data - judge


@pytest.mark.slow
@pytest.mark.parametrize(
    ("extra", "package", "others", "least"),
    [("data", "handdata", (), 100), ("train", "handtrain", ("handtrain.app",), 120)],
)
def test_an_extra_brings_what_every_module_of_its_package_imports(extra, package, others, least, tmp_path):
    site = site_of(tmp_path / "site", extra)
    assert int(run_in(site, "-c", IMPORT_ALL.format(package=package, others=others), folder=tmp_path)) >= least


@pytest.mark.slow
def test_the_demo_needs_the_extras_that_make_installs_and_the_judge_its_own(tmp_path):
    try:
        assets.path("hand-landmarker")
    except UserError as error:
        pytest.skip(str(error))
    assert "-e '.[generate,judge]'" in (ROOT / "Makefile").read_text(encoding="utf-8")
    demo = str(ROOT / "docs/examples/demo.py")
    flags = ("--out", "demo", "--count", "2", "--steps", "2")
    run_in(site_of(tmp_path / "both", "generate", "judge"), demo, *flags, folder=tmp_path)
    assert (tmp_path / "demo/index.html").is_file()
    judge = "import sys; from handtrain.cli import main; sys.argv = ['handtrain', *sys.argv[1:]]; main()"
    words = ("judge", "demo/base", "--out", "page.html", "--workers", "1")
    run_in(site_of(tmp_path / "one", "judge"), "-c", judge, *words, folder=tmp_path)
    assert (tmp_path / "page.html").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("extra", "words", "sentence"),
    [
        (
            "judge", ["generate", "--model", "m", "--prompt", "p", "--out", "o"],
            "generate needs the package diffusers: pip install 'hand1000[generate]'",
        ),
        ("judge", ["app"], "the app needs Gradio: pip install 'hand1000[app]'"),
        ("app", ["app"], "app needs the package torch: pip install 'hand1000[train,app]'"),
        ("generate", ["judge", "o", "--out", "x.html"], "judge needs the package cv2: pip install 'hand1000[judge]'"),
    ],
)  # fmt: skip
def test_a_command_names_the_extra_that_is_not_installed(extra, words, sentence, tmp_path):
    code = "import sys; from handtrain.cli import main; sys.argv = ['handtrain', *sys.argv[1:]]; main()"
    (tmp_path / "o").mkdir()
    (tmp_path / "o/a.png").write_bytes((ROOT / "docs/report.png").read_bytes())
    site = site_of(tmp_path / "site", extra)
    environment = {**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{ROOT}", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-S", "-c", code, *words]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, sentence in done.stderr) == (2, True), done.stderr

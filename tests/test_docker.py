"""The Dockerfile, as far as it can be read without Docker: its files, libraries, extras and commands exist."""

import fnmatch
import re
import shlex
import tomllib

import handdata.cli
from tests import ROOT

LINES = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text(encoding="utf-8")).splitlines()
STEPS = [tuple(line.split(" ", 1)) for line in LINES if line and not line.startswith("#")]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
RUNS = [words for step, words in STEPS if step == "RUN"]


def test_it_installs_the_libraries_that_make_asks_for():
    asked = re.search(r"apt-get install ([\w. -]+)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert asked and set(asked[1].split()) <= set(RUNS[0].split())


def test_it_installs_an_extra_of_the_project_with_the_tested_versions():
    (extra,) = re.findall(r"/src\[(\w+)\]", RUNS[1])
    assert extra in PROJECT["project"]["optional-dependencies"]
    assert "--constraint /src/constraints.txt" in RUNS[1] and (ROOT / "constraints.txt").is_file()


def test_packages_are_installed_into_the_environment_on_the_path():
    """Debian's own python3 has no pip, and a shell keeps to the python3 that it found first."""
    (environment,) = re.findall(r"python3 -m venv (\S+)", RUNS[1])
    assert f"{environment}/bin/python -m pip install" in RUNS[1]
    paths = [words for step, words in STEPS if step == "ENV"]
    assert paths[0].startswith(f"PATH={environment}/bin:$PATH")


def test_the_files_of_the_package_are_not_left_out():
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = [*wheel["packages"], *wheel["force-include"], "pyproject.toml", "constraints.txt", "README.md", "LICENSE"]
    assert all((ROOT / path).exists() for path in needed)
    assert [path for path in needed if any(fnmatch.fnmatch(path, pattern) for pattern in ignored)] == []


def test_it_ends_as_a_person_without_rights_and_with_a_command_that_exists():
    assert [words for step, words in STEPS if step == "USER"] == ["1000"]
    assert "useradd --non-unique --uid 1000 --create-home hand" in RUNS[0] and ("ENV", "HOME=/home/hand") in STEPS
    program, command = shlex.split(STEPS[-1][1].strip("[]").replace(",", " "))
    assert STEPS[-1][0] == "CMD" and program in PROJECT["project"]["scripts"] and command in handdata.cli.COMMANDS


def test_images_have_versions_and_no_cache_stays():
    images = re.findall(r"BASE=(\S+)", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    assert len(images) == 2 and all(re.fullmatch(r"[\w/]+:[\w.-]*\d*[\w.-]*", image) for image in images)
    assert not any(image.endswith(":latest") for image in images)
    assert "--no-cache-dir" in RUNS[1] and "rm -rf /var/lib/apt/lists/*" in RUNS[0]

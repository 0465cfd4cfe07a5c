"""`handdata doctor`: each line, by breaking what it checks."""

import json
import os
import shutil
import subprocess
import sys
import threading
import tomllib
from collections import namedtuple
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from types import SimpleNamespace

import pytest

from handdata import doctor
from handdata.assets import assets, cache_folder
from handdata.doctor import Finding
from tests import ROOT

Usage = namedtuple("Usage", "total used free")


def by_name(check) -> dict[str, Finding]:
    return {finding.check: finding for finding in check()}


def test_the_command_names_every_fault_at_once_and_exits_with_1(tmp_path):
    """A cv2 and a llama_cpp that cannot be imported, no landmark model, and a token with a line break."""
    for name, error in (("cv2", "ImportError('libGL is broken')"), ("llama_cpp", "OSError('built for another CPU')")):
        (tmp_path / "broken" / name).mkdir(parents=True)
        (tmp_path / "broken" / name / "__init__.py").write_text(f"raise {error}\n")
    environment = {**os.environ, "HAND1000_CACHE": str(tmp_path / "empty"), "HF_TOKEN": "hf_secret\nvalue"}
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path / "broken"), *sys.path])
    command = [sys.executable, "-m", "handdata", "doctor", "--offline", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 1, done.stderr
    found = {entry["check"]: entry for entry in json.loads(done.stdout)["findings"]}
    assert {name for name, entry in found.items() if entry["state"] == "fault"} == {
        "OpenCV", "llama.cpp", "hand-landmarker",
    }  # fmt: skip
    assert "libGL is broken" in found["OpenCV"]["found"]
    assert "built for another CPU" in found["llama.cpp"]["found"]
    assert found["hand-landmarker"]["remedy"] == "handdata assets hand-landmarker"
    assert found["token"]["state"] == "note"
    assert "secret" not in done.stdout + done.stderr
    assert all(entry["remedy"] for entry in found.values() if entry["state"] != "ok")


def test_a_sound_machine_passes_and_the_lines_are_for_people():
    found = [Finding("Python", "ok", "3.13"), Finding("GPU", "note", "none", "buy one")]
    assert doctor.report(found).split("\n") == [
        "ok    Python  3.13",
        "note  GPU     none",
        "              -> buy one",
        "a build and a training can run here",
    ]
    assert doctor.report([Finding("disk", "fault", "full", "x")]).endswith("1 of 1 checks found a fault")


def test_python_is_named():
    assert by_name(doctor._python)["Python"].found.startswith(sys.version.split()[0])


REQUIRED = ["pillow>=11", "mediapipe<1,>=0.10.35; extra == 'data'", "ray>=2.50; extra == 'ray'"]


@pytest.mark.parametrize(
    ("versions", "line", "state", "found"),
    [
        ({"pillow": "11.0", "ray": "3"}, "extra data", "fault", "mediapipe is missing"),
        (
            {"pillow": "11.0", "mediapipe": "1.2", "ray": "3"},
            "extra data",
            "fault",
            "mediapipe 1.2 is not <1,>=0.10.35",
        ),
        ({"pillow": "9.1", "mediapipe": "0.10.36"}, "packages", "fault", "pillow 9.1 is not >=11"),
        ({"pillow": "11.0", "mediapipe": "0.10.36"}, "extra ray", "note", "ray is missing"),
        ({"pillow": "11.0", "mediapipe": "0.10.36", "ray": "3"}, "extra data", "ok", "mediapipe 0.10.36"),
    ],
)
def test_packages_are_compared_with_the_requirements_of_each_extra(monkeypatch, versions, line, state, found):
    def version(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(metadata, "requires", lambda name: REQUIRED)
    monkeypatch.setattr(metadata, "version", version)
    finding = by_name(doctor._packages)[line]
    assert (finding.state, found in finding.found) == (state, True), finding
    if state != "ok" and line != "packages":
        assert finding.remedy == f"pip install 'hand1000[{line.split()[1]}]'"


EXTRAS = sorted(set(doctor._EXTRAS) - {""})


@pytest.mark.parametrize("broken", EXTRAS)
def test_a_missing_package_of_an_extra_changes_its_line_alone(monkeypatch, broken):
    def version(name: str) -> str:
        if name == f"part-of-{broken}":
            raise metadata.PackageNotFoundError(name)
        return "2"

    about = SimpleNamespace(get_all=lambda field: EXTRAS)
    monkeypatch.setattr(metadata, "metadata", lambda name: about)
    monkeypatch.setattr(metadata, "requires", lambda name: [f"part-of-{name}>=1; extra == '{name}'" for name in EXTRAS])
    monkeypatch.setattr(metadata, "version", version)
    found = by_name(doctor._packages)
    assert {line for line, finding in found.items() if finding.state != "ok"} == {f"extra {broken}"}
    assert found[f"extra {broken}"].state == ("fault" if broken in ("data", "train") else "note")


def test_every_extra_that_a_user_installs_has_a_line():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(EXTRAS) == set(project["optional-dependencies"]) - {"all", "dev", "cuda"}


def test_a_checkout_that_is_not_installed_is_named(monkeypatch):
    def requires(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", requires)
    assert "checkout" in by_name(doctor._packages)["packages"].found


@pytest.mark.skipif(sys.platform != "linux", reason="the libraries of other systems come with the packages")
def test_a_missing_system_library_is_a_fault(monkeypatch):
    assert by_name(doctor._system_libraries)["libraries"].state == "ok"
    monkeypatch.setattr(doctor, "LIBRARIES", ("libc.so.6", "libnot-there.so.1"))
    finding = by_name(doctor._system_libraries)["libraries"]
    assert finding.state == "fault"
    assert finding.found.startswith("libnot-there.so.1 cannot")
    assert finding.remedy.startswith("apt-get install libegl1")


def test_two_wheels_with_the_same_opencv_are_named(monkeypatch, tmp_path):
    (tmp_path / "opencv_python-4.12.0.dist-info").mkdir()
    (tmp_path / "opencv_python-4.12.0.dist-info" / "METADATA").write_text("Name: opencv-python\nVersion: 4.12.0\n")
    assert by_name(doctor._system_libraries)["OpenCV"].state == "ok"
    monkeypatch.syspath_prepend(str(tmp_path))
    finding = by_name(doctor._system_libraries)["OpenCV"]
    assert (finding.state, "pip uninstall opencv-python," in finding.remedy) == ("note", True)


def test_a_gpu_that_torch_cannot_use_is_a_fault_and_one_that_llama_cannot_use_a_note(monkeypatch, tmp_path):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(doctor, "NVIDIA", tmp_path / "nvidia0")
    assert by_name(doctor._gpu)["GPU"].state == "note"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert by_name(doctor._gpu)["GPU"].found.startswith("MPS of this Mac")
    (tmp_path / "nvidia0").touch()
    assert by_name(doctor._gpu)["GPU"].state == "fault"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (2 * 2**30, 24 * 2**30))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: "A card")
    found = by_name(doctor._gpu)
    assert found["GPU"].found.startswith("A card, 2 of 24 GiB free")
    assert (found["llama.cpp"].state, "GGML_CUDA" in found["llama.cpp"].remedy) == ("note", True)


def test_a_full_disk_is_a_fault_and_a_small_one_a_note(monkeypatch):
    for free, state in ((1e9, "fault"), (20e9, "note"), (500e9, "ok")):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: Usage(1e12, 1e12 - free, free))
        assert by_name(doctor._disk)["disk"].state == state


def test_a_cache_that_cannot_be_a_folder_is_a_fault(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("HAND1000_CACHE", str(tmp_path / "file" / "cache"))
    finding = by_name(doctor._disk)["cache"]
    assert (finding.state, "HAND1000_CACHE" in finding.remedy) == ("fault", True)
    assert by_name(doctor._disk)["Hub's cache"].state == "ok"
    monkeypatch.setattr(doctor, "_hub_cache", lambda: tmp_path / "file" / "hub")
    finding = by_name(doctor._disk)["Hub's cache"]
    assert (finding.state, "HF_HOME" in finding.remedy) == ("fault", True)


def test_model_files_are_missing_damaged_or_right(monkeypatch, tmp_path):
    real = cache_folder() / assets()["hand-landmarker"].file
    monkeypatch.setenv("HAND1000_CACHE", str(tmp_path))
    monkeypatch.setattr(doctor, "_hub_cache", lambda: tmp_path / "hub")
    found = by_name(doctor._models)
    assert (found["hand-landmarker"].state, found["clip-vocabulary"].state) == ("fault", "note")
    for kind, repo in doctor._of_the_paper():
        assert by_name(doctor._models)[kind].state == "note"
        (tmp_path / "hub" / f"models--{repo.replace('/', '--')}" / "snapshots" / "abc").mkdir(parents=True)
        assert by_name(doctor._models)[kind].state == "ok"
    (tmp_path / real.name).write_bytes(b"damaged")
    assert by_name(doctor._models)["hand-landmarker"].found == "damaged (wrong sha256)"
    shutil.copy(real, tmp_path)
    assert by_name(doctor._models)["hand-landmarker"].state == "ok"


def test_a_token_is_present_or_not_and_is_never_shown(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    finding = by_name(doctor._token)["token"]
    assert (finding.state, "secret" in finding.found) == ("ok", False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert by_name(doctor._token)["token"].remedy.startswith("run `hf auth login`")


@pytest.fixture
def hub():
    """Serve the status of `Answer.status` on a free port."""

    class Answer(BaseHTTPRequestHandler):
        status = 200

        def do_GET(self) -> None:
            self.send_response(self.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *words: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", Answer
    server.shutdown()
    server.server_close()


def test_the_hub_answers_is_down_or_cannot_be_reached(monkeypatch, hub):
    from huggingface_hub import constants

    address, answer = hub
    monkeypatch.setattr(constants, "is_offline_mode", lambda: False)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    assert by_name(doctor._hub)["Hub"] == Finding("Hub", "ok", f"{address} answers")
    answer.status = 503
    assert by_name(doctor._hub)["Hub"].found.endswith("answers HTTP 503")
    monkeypatch.setattr(constants, "ENDPOINT", "http://user:word@127.0.0.1:9")  # the port discard: nobody listens
    finding = by_name(doctor._hub)["Hub"]
    assert (finding.state, "cannot be reached" in finding.found, "word" in finding.found) == ("note", True, False)
    monkeypatch.setattr(constants, "is_offline_mode", lambda: True)
    assert "HF_HUB_OFFLINE" in by_name(doctor._hub)["Hub"].found

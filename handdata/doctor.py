"""A look at this machine: all that a build and a training need, one line per check, each with its remedy.

Nothing is installed, downloaded or changed, and no token is read out. The checks do not import torch or MediaPipe where
a look at the installed packages answers.
"""

import ctypes
import importlib
import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from handdata import assets
from handdata.errors import UserError, first_line
from handdata.machine import all_cores
from handdata.recipe import find, load
from handdata.shipped import version
from handdata.weights.gguf import hub_file

State = Literal["ok", "note", "fault"]

LIBRARIES = ("libEGL.so.1", "libGLESv2.so.2", "libGL.so.1", "libglib-2.0.so.0")  # of MediaPipe and OpenCV, on Linux
NVIDIA = Path("/dev/nvidia0")
_DEBIAN = "apt-get install libegl1 libgles2 libgl1 libglib2.0-0"
_EXTRAS = {"": "every command", "data": "handdata build", "train": "handtrain train", "judge": "handtrain judge",
           "generate": "handtrain generate", "app": "handtrain app", "ray": "--engine ray",
           "heif": "photographs in HEIC"}  # fmt: skip
_MAIN = ("", "data", "train")  # without these the main job cannot run
_LITTLE, _SMALL = 2e9, 60e9  # bytes of free disk: nothing fits, and less than a build of hand1000 with its models
_TESTS_ONLY = ("llama3-tokenizer",)
_TIMEOUT = 5.0  # seconds for the Hub


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, whether it is right, what was found, and what to do about it."""

    check: str
    state: State  # a note limits what can be done; with a fault the main job cannot run
    found: str
    remedy: str = ""


def findings(hub: bool = True) -> Iterator[Finding]:
    """Yield the findings of all checks in order; without `hub` no request is made."""
    for check in CHECKS:
        yield from check()
    if hub:
        yield from _hub()


def report(found: list[Finding], as_json: bool = False) -> str:
    """Return the findings as lines for people, or as one JSON object."""
    if as_json:
        return json.dumps({"findings": [asdict(finding) for finding in found]})
    width = max(len(finding.check) for finding in found)
    lines = []
    for finding in found:
        lines.append(f"{finding.state:<6}{finding.check:<{width}}  {finding.found}")
        lines += [f"{'':<6}{'':<{width}}  -> {finding.remedy}"] if finding.remedy else []
    faults = sum(finding.state == "fault" for finding in found)
    end = f"{faults} of {len(found)} checks found a fault" if faults else "a build and a training can run here"
    return "\n".join([*lines, end])


def _python() -> Iterator[Finding]:
    found = f"{sys.version.split()[0]} on {sys.platform}, {all_cores()} cores, hand1000 {version()}"
    yield Finding("Python", "ok", found)


def _packages() -> Iterator[Finding]:
    """Compare the installed packages with what the extras of hand1000 require."""
    try:
        required = metadata.requires("hand1000") or []
        declared = {"", *(metadata.metadata("hand1000").get_all("Provides-Extra") or [])}
    except metadata.PackageNotFoundError:
        yield Finding("packages", "note", "hand1000 runs from a checkout: its requirements are not known",
                      "pip install -e '.[all]' in the checkout")  # fmt: skip
        return
    for extra, purpose in ((extra, purpose) for extra, purpose in _EXTRAS.items() if extra in declared):
        faults, present = _unmet(required, extra)
        name = f"extra {extra}" if extra else "packages"
        remedy = f"pip install 'hand1000[{extra}]'" if extra else "pip install hand1000"
        if faults:
            state: State = "fault" if extra in _MAIN else "note"
            yield Finding(name, state, f"for {purpose}: {'; '.join(faults)}", remedy)
        else:
            yield Finding(name, "ok", f"for {purpose}: {', '.join(present)}")


def _unmet(required: list[str], extra: str) -> tuple[list[str], list[str]]:
    """Return the packages of an extra that are missing or of a wrong version, and those that fit, with versions."""
    from packaging.requirements import Requirement

    faults, present = [], []
    for requirement in map(Requirement, required):
        with_extra = requirement.marker is None or requirement.marker.evaluate({"extra": extra})
        always = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if not with_extra or (extra and always) or requirement.name == "hand1000":
            continue
        try:
            installed = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            faults.append(f"{requirement.name} is missing")
            continue
        if requirement.specifier.contains(installed, prereleases=True):
            present.append(f"{requirement.name} {installed}")
        else:
            faults.append(f"{requirement.name} {installed} is not {requirement.specifier}")
    return faults, present


def _system_libraries() -> Iterator[Finding]:
    """Load the libraries of MediaPipe and OpenCV, and OpenCV itself."""
    missing = [name for name in LIBRARIES if not _loads(name)] if sys.platform == "linux" else []
    if missing:
        yield Finding("libraries", "fault", f"{', '.join(missing)} cannot be loaded: MediaPipe needs them", _DEBIAN)
    else:
        yield Finding("libraries", "ok", "those of MediaPipe and OpenCV can be loaded")
    if importlib.util.find_spec("cv2") is None:
        return  # named by its extra
    both = {"opencv-python", "opencv-python-headless"} & _installed()
    try:
        cv2: Any = importlib.import_module("cv2")
    except (ImportError, AttributeError) as error:
        yield Finding("OpenCV", "fault", f"cannot be imported: {first_line(error)}",
                      "pip install --force-reinstall opencv-contrib-python")  # fmt: skip
        return
    if both and "opencv-contrib-python" in _installed():
        yield Finding("OpenCV", "note", f"{', '.join(sorted(both))} and opencv-contrib-python overwrite each other",
                      f"pip uninstall {' '.join(sorted(both))}, then reinstall opencv-contrib-python")  # fmt: skip
    else:
        yield Finding("OpenCV", "ok", str(cv2.__version__))


def _loads(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def _installed() -> set[str]:
    return {str(package.metadata["Name"]).lower() for package in metadata.distributions()}


def _gpu() -> Iterator[Finding]:
    """Look for a GPU that torch can use, and for one that llama.cpp was built for."""
    usable = False
    if importlib.util.find_spec("torch") is not None:
        import torch

        usable = torch.cuda.is_available()
        if usable:
            free, total = torch.cuda.mem_get_info()
            found = f"{torch.cuda.get_device_name(0)}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free, "
            found += f"{torch.cuda.device_count()} in all, torch {torch.__version__}"
            yield Finding("GPU", "ok", found)
        elif NVIDIA.exists():
            yield Finding("GPU", "fault", f"torch {torch.__version__} cannot use the GPU of this machine",
                          "install the torch of its driver (`nvidia-smi` names it), or use --device cpu")  # fmt: skip
        elif torch.backends.mps.is_available():
            yield Finding("GPU", "ok", f"MPS of this Mac, torch {torch.__version__}")
        else:
            yield Finding("GPU", "note", f"none: torch {torch.__version__} uses the CPU, enough for the mini models",
                          "train and generate with Stable Diffusion on a machine with a GPU")  # fmt: skip
    if importlib.util.find_spec("llama_cpp") is None:
        return  # named by its extra
    try:
        offload = bool(importlib.import_module("llama_cpp").llama_supports_gpu_offload())
    except (ImportError, OSError, RuntimeError) as error:
        yield Finding("llama.cpp", "fault", f"cannot be loaded: {first_line(error)}",
                      "pip install --force-reinstall --no-binary llama-cpp-python llama-cpp-python")  # fmt: skip
        return
    if usable and not offload:
        yield Finding("llama.cpp", "note", "was built without the GPU: texts of an 8B model take 20 s each",
                      "CMAKE_ARGS=-DGGML_CUDA=on pip install --force-reinstall --no-binary llama-cpp-python"
                      " llama-cpp-python")  # fmt: skip
    else:
        yield Finding("llama.cpp", "ok", "with a GPU" if offload else "for the CPU")


def _disk() -> Iterator[Finding]:
    """Look at the free space of the working directory, and at the cache folders."""
    free = shutil.disk_usage(Path.cwd()).free
    found = f"{free / 1e9:,.0f} GB free in {Path.cwd()}"
    if free < _LITTLE:
        yield Finding("disk", "fault", found, "free some space: 2 GB are the least for the mini world")
    elif free < _SMALL:
        yield Finding("disk", "note", found, "60 GB hold a build of hand1000 with its models and a training")
    else:
        yield Finding("disk", "ok", found)
    for name, variable, folder in (
        ("cache", "HAND1000_CACHE", assets.cache_folder()), ("Hub's cache", "HF_HOME", _hub_cache())
    ):  # fmt: skip
        parent = next(path for path in (folder, *folder.parents) if path.exists())
        if not (parent.is_dir() and os.access(parent, os.W_OK)):
            yield Finding(name, "fault", f"{folder} cannot be written",
                          f"correct its permissions, or set {variable}")  # fmt: skip
        else:
            yield Finding(name, "ok", f"{folder}, {shutil.disk_usage(parent).free / 1e9:,.0f} GB free")


def _hub_cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _models() -> Iterator[Finding]:
    """Look for the model files: those of manifests/assets.toml, and the shipped mini models."""
    for name, asset in assets.assets().items():
        if name in _TESTS_ONLY:
            continue
        remedy = f"handdata assets {name}"
        if not (assets.cache_folder() / asset.file).is_file():
            state: State = "fault" if name == "hand-landmarker" else "note"
            yield Finding(name, state, f"not here: {asset.what}", remedy)
            continue
        try:
            assets.path(name)
        except UserError:
            yield Finding(name, "fault", "damaged (wrong sha256)", remedy)
        else:
            yield Finding(name, "ok", asset.what)
    for kind, repo in _of_the_paper():
        folder = _hub_cache() / f"models--{repo.replace('/', '--')}" / "snapshots"
        if folder.is_dir() and any(folder.iterdir()):
            yield Finding(kind, "ok", f"{repo} is in the Hub's cache")
        else:
            yield Finding(kind, "note", f"{repo} is not here", "the first command that needs it fetches it")


def _of_the_paper() -> Iterator[tuple[str, str]]:
    """Yield the use and the repository of the models of the recipe `hand1000`, and of the paper's base model."""
    recipe = load(find("hand1000"))
    yield "captioner", recipe.caption.model
    file = hub_file(recipe.rewrite)
    if file is not None:
        yield "language model", file.name.repo
    yield "base model", "CompVis/stable-diffusion-v1-4"


def _token() -> Iterator[Finding]:
    """Look whether a token is set; its value is never shown."""
    from handdata.huggingface import hub_token

    try:
        token = hub_token()
    except UserError as error:
        yield Finding("token", "note", str(error), "set HF_TOKEN, or run `hf auth login` again")
        return
    if token:
        yield Finding("token", "ok", "a token of the Hub is set")
    else:
        yield Finding("token", "note", "none: needed to publish, and for gated models",
                      "run `hf auth login`, or set HF_TOKEN")  # fmt: skip


def _hub() -> Iterator[Finding]:
    """Ask the Hub for one small answer."""
    from huggingface_hub import constants

    from handdata.web.client import Deadline, Refused, TransientError, exchange, open_client
    from handdata.web.urls import without_secrets

    if constants.is_offline_mode():
        yield Finding("Hub", "note", "HF_HUB_OFFLINE is set: only its cache is used", "unset it to download models")
        return
    address = f"{constants.ENDPOINT.rstrip('/')}/api/models/CompVis/stable-diffusion-v1-4"
    shown = without_secrets(constants.ENDPOINT)
    try:
        client = open_client(_TIMEOUT, connections=1)
        try:
            with exchange(client, {"method": "GET", "url": address}, Deadline(_TIMEOUT, _TIMEOUT)) as response:
                status = response.status_code
        finally:
            client.close()
    except (TransientError, Refused, UserError) as error:
        yield Finding("Hub", "note", f"{shown} cannot be reached ({first_line(error)})",
                      "check the network and the proxy; the mini world needs no Hub")  # fmt: skip
        return
    if status < 500:
        yield Finding("Hub", "ok", f"{shown} answers")
    else:
        yield Finding("Hub", "note", f"{shown} answers HTTP {status}", "try again later")


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    _python, _packages, _system_libraries, _gpu, _disk, _models, _token,
)  # fmt: skip

"""Fixtures: a tiny base model and a tiny dataset, written once per test process, and their caches."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forbid requests to a Hub during each of these tests; other tests of the process may send some."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)  # the same bits whatever else the machine does


@pytest.fixture(scope="session", autouse=True)
def datasets_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    import datasets

    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets")
    datasets.disable_progress_bars()


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.handtrain.tiny import write_base

    return write_base(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.handtrain.tiny import write_dataset

    return write_dataset(tmp_path_factory.mktemp("dataset") / "tiny")


@pytest.fixture(scope="session")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of encoded images and texts that runs share."""
    return tmp_path_factory.mktemp("encoded")


@pytest.fixture(scope="session")
def train(base: Path, dataset: Path, encoded: Path) -> Callable[..., Any]:
    """Return a function that trains on the CPU into a folder; its keywords are those of `handtrain.train`."""
    from handtrain.training.train import train

    def on_cpu(out: Path, preset: str = "smoke", **changes: Any) -> Any:
        places = {"dataset": dataset, "base": base, "gesture": "call", "device": "cpu", "cache": encoded}
        quiet = {"tensorboard": False, "sample_every": 0, "validate_every": 0}
        return train(**{**places, **quiet, "out": out, "preset": preset, **changes})

    return on_cpu


@pytest.fixture(scope="session")
def model(train: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder of a finished run with the paper's flat fusion."""
    return Path(train(tmp_path_factory.mktemp("run") / "flat").model)


@pytest.fixture(scope="session")
def token_model(train: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder of a finished run with every option of `plus`."""
    plus = {"fusion": "token", "crop": "hand", "feature": "normalised", "hand_weight": 2.0, "fusion_lr": 0.01}
    return Path(train(tmp_path_factory.mktemp("run") / "token", **plus).model)

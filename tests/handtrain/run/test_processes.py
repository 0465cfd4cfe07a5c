"""Two and three processes train the same weights as one; without the sum of gradients they do not."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from handdata.errors import UserError
from handtrain.run import processes
from handtrain.run.processes import Processes, own_device
from tests import ROOT
from tests.handtrain.launching import Launcher

QUIET = ["--sample-every", "0", "--validate-every", "0", "--no-tensorboard"]
# 5 images: batches of 2 leave one for the end, and three processes have an empty share of each.
STEPS = ["--embedding-batch", "2", "--embedding-steps", "3", "--unet-batch", "2", "--unet-epochs", "4"]


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    started = Launcher(tmp_path_factory.mktemp("launcher"))
    yield started
    started.close()


@pytest.fixture(scope="module")
def common(base: Path, dataset: Path, encoded: Path) -> list[str]:
    places = ["--dataset", str(dataset), "--gesture", "call", "--base", str(base), "--cache", str(encoded)]
    return ["train", *places, "--device", "cpu", *QUIET, *STEPS]


@pytest.fixture(scope="module", params=["1e-6", "1e-3"])
def alone(
    request: pytest.FixtureRequest, launcher: Launcher, common: list[str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[str], Path]:
    """The flags of a run, and its folder after training in one process."""
    out, flags = tmp_path_factory.mktemp("alone") / "run", [*common, "--unet-lr", request.param]
    assert launcher([*flags, "--out", str(out)]) == [0]
    return flags, out


def _weights(run: Path) -> torch.Tensor:
    tensors = load_file(run / "model" / "unet" / "diffusion_pytorch_model.safetensors")
    return torch.cat([tensors[name].double().flatten() for name in sorted(tensors)])


def _embeddings(run: Path) -> torch.Tensor:
    return torch.cat([load_file(file)["embeddings"] for file in sorted((run / "stage2").glob("[0-9]*"))])


def _log(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def _apart(run: Path, alone: Path, base: Path) -> float:
    """Return the distance of a run's weights from those of one process, relative to the movement of the latter."""
    start = load_file(base / "unet" / "diffusion_pytorch_model.safetensors")
    before = torch.cat([start[name].double().flatten() for name in sorted(start)])
    return float((_weights(run) - _weights(alone)).norm() / (_weights(alone) - before).norm())


@pytest.mark.parametrize("count", [2, 3])
def test_several_processes_train_the_same_weights_as_one(
    alone: tuple[list[str], Path], launcher: Launcher, base: Path, tmp_path: Path, count: int
) -> None:
    flags, single = alone
    assert launcher([*flags, "--out", str(tmp_path / "run")], count) == [0] * count, launcher.errors.read_text()
    run = tmp_path / "run"
    apart = _apart(run, single, base)
    print(f"{count} processes: {apart:.1e} of the weights' movement")
    assert apart <= 1e-3
    assert torch.equal(_embeddings(run), _embeddings(single))  # a batch of Stage II is never split
    lines, expected = _log(run), _log(single)
    assert [(line["stage"], line["step"], line.get("image_ids")) for line in lines] == [
        (line["stage"], line["step"], line.get("image_ids")) for line in expected
    ]
    for line, expected_line in zip(lines, expected, strict=True):
        assert line.get("loss", 0.0) == pytest.approx(expected_line.get("loss", 0.0), rel=1e-3)
    record = json.loads((run / "run.json").read_text())
    assert record["sessions"][-1]["processes"] == count
    assert not (run / "checkpoints").exists()  # of a finished run
    assert not list(run.rglob("*.partial"))


@pytest.mark.slow
def test_poses_and_a_prior_train_the_same_weights_in_two_processes(
    common: list[str], launcher: Launcher, base: Path, tmp_path: Path
) -> None:
    switches = "--preset plus --unet-lr 1e-3 --unet-warmup 1 --prior 0.5 --prior-images 3 --min-snr 5 --hand-weight 2"
    for name, count in (("alone", 1), ("together", 2)):
        flags = [*common, *switches.split(), "--out", str(tmp_path / name)]
        assert launcher(flags, count) == [0] * count, launcher.errors.read_text()
    assert _apart(tmp_path / "together", tmp_path / "alone", base) <= 1e-3
    first, second = (load_file(tmp_path / name / "model" / "pose.safetensors") for name in ("alone", "together"))
    # Adam enlarges rounding where a gradient is almost zero, so single weights may differ more than all of them
    layers = [torch.cat([each[name].flatten() for name in sorted(first)]) for each in (first, second)]
    assert torch.linalg.norm(layers[1] - layers[0]) <= 1e-3 * torch.linalg.norm(layers[0])


@pytest.mark.parametrize("alone", ["1e-3"], indirect=True)
def test_without_the_sum_of_gradients_the_weights_differ(
    alone: tuple[list[str], Path], launcher: Launcher, base: Path, tmp_path: Path
) -> None:
    flags, single = alone
    assert launcher([*flags, "--out", str(tmp_path / "run")], 2, "no-all-reduce") == [0, 0], launcher.errors.read_text()
    apart = _apart(tmp_path / "run", single, base)
    print(f"without the all-reduce: {apart:.1e}")
    assert apart > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("alone", ["1e-3"], indirect=True)
def test_a_run_resumes_with_another_number_of_processes(
    alone: tuple[list[str], Path], launcher: Launcher, base: Path, tmp_path: Path
) -> None:
    flags, single = alone
    run = [*flags, "--out", str(tmp_path / "run"), "--checkpoint-minutes", "0"]
    assert 9 in launcher(run, 2, "killed-at-step-3")
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()]
    assert not (tmp_path / "run" / "model").exists()
    assert launcher(run, 3) == [0, 0, 0], launcher.errors.read_text()
    assert _apart(tmp_path / "run", single, base) <= 1e-3
    assert [line["step"] for line in _log(tmp_path / "run") if line["stage"] == 3] == list(range(10))


@pytest.mark.slow
def test_adapters_in_bf16_resume_in_two_processes(
    common: list[str], launcher: Launcher, base: Path, tmp_path: Path
) -> None:
    flags = [*common, "--lora-rank", "2", "--precision", "bf16", "--unet-lr", "1e-3", "--checkpoint-minutes", "0"]
    assert launcher([*flags, "--out", str(tmp_path / "alone")], 1) == [0], launcher.errors.read_text()
    again = [*flags, "--out", str(tmp_path / "run")]
    assert 9 in launcher(again, 2, "killed-at-step-3")
    assert launcher(again, 2) == [0, 0], launcher.errors.read_text()
    assert [line["step"] for line in _log(tmp_path / "run") if line["stage"] == 3] == list(range(10))
    assert 0 < _apart(tmp_path / "run", tmp_path / "alone", base) <= 0.2  # gradients of bf16 are summed in parts


@pytest.mark.parametrize("alone", ["1e-3"], indirect=True)
def test_a_mistake_ends_all_processes(alone: tuple[list[str], Path], launcher: Launcher) -> None:
    flags, single = alone
    assert launcher([*flags, "--out", str(single), "--lam", "0.5"], 2) == [2, 2]
    assert "options.lam was 0.7, is 0.5" in launcher.errors.read_text()


def test_two_processes_train_the_same_token_layer_as_one(
    launcher: Launcher, common: list[str], base: Path, tmp_path: Path
) -> None:
    flags = [*common, "--fusion", "token", "--fusion-epochs", "2", "--fusion-batch", "2", "--fusion-lr", "1e-2"]
    for count in (1, 2):
        assert launcher([*flags, "--out", str(tmp_path / str(count))], count) == [0] * count, (
            launcher.errors.read_text()
        )
    one, two = (load_file(tmp_path / str(count) / "stage2" / "fusion.safetensors") for count in (1, 2))
    assert all(torch.allclose(one[name], two[name], atol=1e-6) for name in one)
    assert _apart(tmp_path / "2", tmp_path / "1", base) <= 1e-3


def test_the_shares_of_a_batch_cover_it_once() -> None:
    for size in (0, 1, 2, 5, 16):
        rows = list(range(size))
        assert [row for rank in range(3) for row in rows[Processes(rank, 3).share(size)]] == rows


def test_every_process_has_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    assert own_device("auto", Processes(1, 2, 1)) == "cuda:1"
    assert own_device("auto", Processes()) == "auto"
    with pytest.raises(UserError, match="more processes than GPUs"):
        own_device("cuda", Processes(2, 3, 2))
    with pytest.raises(UserError, match="--device cuda:1 is one GPU"):
        own_device("cuda:1", Processes(1, 2, 1))


def test_gradients_are_cut_into_buckets_of_one_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_BUCKET", 10)
    tensors = [torch.zeros(6), torch.zeros(4), torch.zeros(30), torch.zeros(2, dtype=torch.float64), torch.zeros(1)]
    assert [[len(tensor) for tensor in bucket] for bucket in processes._buckets(tensors)] == [[6, 4], [30], [2], [1]]


@pytest.mark.slow
def test_torchs_launcher_trains_the_same_weights_as_one_process(
    launcher: Launcher, common: list[str], base: Path, tmp_path: Path
) -> None:
    flags = [*common, "--unet-lr", "1e-3"]
    assert launcher([*flags, "--out", str(tmp_path / "alone")]) == [0]
    # the launcher that `accelerate launch` starts on GPUs; on CPUs it starts one process, or requires MPI
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "handtrain"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, *launch, *flags, "--out", str(tmp_path / "two")],
        env=environment, cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "two" / "run.json").read_text())["sessions"][0]["processes"] == 2
    assert _apart(tmp_path / "two", tmp_path / "alone", base) <= 1e-3

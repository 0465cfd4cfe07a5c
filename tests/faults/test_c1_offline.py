"""What the Hub's cache or a record holds needs no request: with HF_HUB_OFFLINE and with a Hub that is down."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from handdata import huggingface
from handdata.builds.build import Build
from handdata.dataset.evaluate import open_dataset
from handdata.errors import Unfinished, UserError
from handdata.huggingface import HubName, at_commit, model_folder, pipeline_folder
from handdata.stages.caption import Captions
from handtrain.data.dataset import load
from handtrain.run.phases import Phases
from handtrain.training.setup import set_up
from tests import ROOT, tiny_captioners
from tests.chat_server import chat_server, says
from tests.finished import finished_build
from tests.handtrain.tiny import write_base, write_dataset
from tests.hub_server import HubServer

REPOS = {"base": "model", "captioner": "model", "hands": "dataset"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("repos")
    captioner = tiny_captioners.make("blip", root / "captioner")
    return {"base": write_base(root / "base"), "captioner": captioner, "hands": write_dataset(root / "hands", 3, 1)}


@pytest.fixture
def hub(folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub with all repositories, and an empty cache."""
    with HubServer() as server:
        server.adopt(monkeypatch, tmp_path / "home")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_PROGRESS_BARS", True)
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
        upload(folders)
        forget()
        server.log.clear()
        yield server
    forget()


def upload(folders: dict[str, Path]) -> None:
    from huggingface_hub import HfApi

    for name, kind in REPOS.items():
        HfApi().create_repo(f"tester/{name}", repo_type=kind, exist_ok=True)
        HfApi().upload_folder(repo_id=f"tester/{name}", repo_type=kind, folder_path=folders[name])


def forget() -> None:
    """Empty the caches of this process, as a new process has them."""
    for function in (huggingface._commit_of, huggingface._transformers_folder, huggingface._note_unreachable):
        function.cache_clear()


def stop(server: HubServer, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """Take the Hub away: no server, a server that answers 503 or 429, or HF_HUB_OFFLINE=1."""
    forget()
    if how == "offline":
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    elif how == "refused":
        server._http.shutdown()
        server._http.server_close()
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    elif how == "drop":
        server.fail(".", "drop", times=10_000)
    else:
        server.fail(".", int(how), times=10_000)


USES: dict[str, Callable[[], Any]] = {
    "base": lambda: pipeline_folder(HubName("tester/base"), "--base"),
    "branch": lambda: pipeline_folder(HubName("tester/base", "main"), "--base"),
    "captioner": lambda: model_folder("tester/captioner", "main"),
    "rows": lambda: [row.sha256 for row in load(HubName("tester/hands"), "call").rows],
    "validation": lambda: [row.sha256 for row in load(HubName("tester/hands"), "call", "validation").rows],
}
DOWN = ("offline", "refused", "503", "429", "drop")


@pytest.mark.parametrize("how", DOWN)
def test_c1_everything_cached_works_without_the_hub(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    online = {name: use() for name, use in USES.items()}
    assert hub.log
    capsys.readouterr()
    stop(hub, monkeypatch, how)
    assert {name: use() for name, use in USES.items()} == online
    note = capsys.readouterr().err
    assert note.count("the Hub cannot be reached") == (how != "offline") and note.count("\n") <= 1


def test_c1_a_full_commit_needs_no_request(hub: HubServer) -> None:
    commits = {name: at_commit(HubName(f"tester/{name}"), kind, "--x") for name, kind in REPOS.items()}
    pipeline_folder(commits["base"], "--base")
    model_folder("tester/captioner", str(commits["captioner"].revision))
    load(commits["hands"], "call")
    hub.log.clear()
    forget()
    pipeline_folder(commits["base"], "--base")
    model_folder(f"hf:tester/captioner@{commits['captioner'].revision}", "main")
    load(commits["hands"], "call")
    assert at_commit(HubName("nobody/nothing", "0123456789" * 4), "model", "--x").revision == "0123456789" * 4
    assert not hub.log


def test_c1_a_branch_that_moved_is_noticed_while_the_hub_answers(
    hub: HubServer, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(load(HubName("tester/hands"), "call").rows) == 3
    upload({**folders, "hands": write_dataset(tmp_path / "more", 4, 1)})
    assert len(load(HubName("tester/hands"), "call").rows) == 4
    stop(hub, monkeypatch, "refused")
    assert len(load(HubName("tester/hands"), "call").rows) == 4


@pytest.mark.parametrize(
    ("how", "kind", "words"),
    [
        ("offline", UserError, "HF_HUB_OFFLINE is set: unset it"),
        ("refused", Unfinished, "the Hub cannot be reached"),
        ("503", Unfinished, "the Hub answered HTTP 503"),
    ],
)
@pytest.mark.parametrize("cached", ["nothing", "a part"])
def test_c1_what_the_cache_lacks_is_one_sentence_that_fits(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, kind: type[Exception], words: str,
    cached: str,
) -> None:  # fmt: skip
    if cached == "a part":
        folder, _ = pipeline_folder(HubName("tester/base"), "--base")
        next((folder / "vae").glob("*.safetensors")).unlink()
    stop(hub, monkeypatch, how)
    with pytest.raises(kind, match=words) as caught:
        pipeline_folder(HubName("tester/base"), "--base")
    assert str(caught.value).startswith("--base hf:tester/base") and "\n" not in str(caught.value)


def test_c1_a_damaged_reference_in_the_cache_counts_as_absent(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline_folder(HubName("tester/base"), "--base")
    (tmp_path / "home/hub/models--tester--base/refs/main").write_bytes(b"\xff" * 40)
    stop(hub, monkeypatch, "offline")
    with pytest.raises(UserError, match="HF_HUB_OFFLINE"):
        pipeline_folder(HubName("tester/base"), "--base")


def test_c1_a_build_with_a_recorded_commit_needs_neither_hub_nor_model(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = Build.open(finished_build(tmp_path / "build", {"train": 2, "validation": 0, "test": 0}))
    recipe = Build.start(build.recipe, tmp_path / "build", caption={"model": "tester/captioner"})
    first = Captions.fingerprint(recipe._options(_stage(), Captions))
    shutil.rmtree(tmp_path / "home" / "hub")
    stop(hub, monkeypatch, "offline")
    assert Captions.fingerprint(Build.open(tmp_path / "build")._options(_stage(), Captions)) == first


def _stage() -> Any:
    from handdata.stages import stage_named

    return stage_named("caption")


def test_c1_a_run_keeps_the_commits_that_it_recorded(
    hub: HubServer, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def setup(dataset: str = "hf:tester/hands") -> Any:
        return set_up(dataset, "call", "hf:tester/base", "smoke", None, None, "cpu", {}, tmp_path / "run")

    first = setup()
    record = {"config": first.config(Phases()), "sessions": [{}, first.session(1)]}
    (tmp_path / "run").mkdir()
    (tmp_path / "run/run.json").write_text(json.dumps(record))
    upload({**folders, "hands": write_dataset(tmp_path / "more", 4, 1)})
    hub.log.clear()
    assert setup().config(Phases()) == first.config(Phases()) and not hub.log
    assert setup("hf:tester/hands@main").config(Phases()) != first.config(Phases()), "another request is looked up"


def test_c1_a_dataset_opens_for_its_measures(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = tmp_path / "all" / "README.md"
    shutil.copytree(write_dataset(tmp_path / "made", 2, 1), tmp_path / "all")
    card.write_text(card.read_text().replace("config_name: call", "config_name: all"))
    upload(dict.fromkeys(REPOS, tmp_path / "all"))
    online = {split: rows["sha256"] for split, rows in open_dataset("hf:tester/hands").items()}
    shutil.rmtree(tmp_path / "datasets")
    stop(hub, monkeypatch, "refused")
    assert {split: rows["sha256"] for split, rows in open_dataset("hf:tester/hands").items()} == online


@pytest.mark.slow
def test_c1_build_train_and_generate_run_from_the_cache(folders: dict[str, Path], tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with HubServer() as hub, chat_server(lambda request: says("no")) as chat:
        environment |= hub.environment(tmp_path / "home")
        names = json.dumps({name: str(path) for name, path in folders.items()})
        subprocess.run([sys.executable, "-c", UPLOAD, names], env=environment, cwd=ROOT, check=True)
        runs = [_commands(tmp_path / name, chat.url) for name in ("1", "2", "3")]
        _run(runs[0], environment, tmp_path)
        down = {**environment, "HF_ENDPOINT": "http://127.0.0.1:9"}
        _run(runs[1], down, tmp_path)
        _run(runs[2], {**down, "HF_HUB_OFFLINE": "1"}, tmp_path)
    _run(runs[0], {**down, "HF_HUB_OFFLINE": "1"}, tmp_path)  # finished: neither the Hub nor the server is needed
    weights = [next((tmp_path / name).rglob("model/unet/*.safetensors")).read_bytes() for name in ("1", "2", "3")]
    assert weights[0] == weights[1] == weights[2]


UPLOAD = """
import json, sys
from pathlib import Path
from tests.faults.test_c1_offline import upload
upload({name: Path(path) for name, path in json.loads(sys.argv[1]).items()})
"""


def _commands(out: Path, server: str) -> list[str]:
    counts = "--select.gestures call --select.train 3 --select.validation 0 --select.test 0"
    counts += " --render.train 6 --render.validation 0 --render.test 0 --caption.model tester/captioner"
    counts += f" --rewrite.server {server} --rewrite.model any --rewrite.retries 0"
    train = "--dataset hf:tester/hands --base hf:tester/base --gesture call --preset smoke --no-tensorboard"
    return [
        f"handdata build mini --out {out}/build {counts}",
        f"handtrain train --out {out}/run {train} --sample-every 0 --device cpu",
        f"handtrain generate --model hf:tester/base --prompt hand --steps 2 --device cpu --out {out}/images",
    ]


def _run(commands: list[str], environment: dict[str, str], folder: Path) -> None:
    """Run commands in one process of their own, in which the libraries read the environment."""
    (folder / "commands.json").write_text(json.dumps([("program", command) for command in commands]))
    command = [sys.executable, "-m", "tests.snippets", str(folder / "commands.json")]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]

"""Every Python block and every command line of README.md, docs and the generated cards runs, or is listed and parsed.

A page runs in a folder of its own, against stand-ins on this machine: the tests' Hub, a chat server, the mini world, a
tiny Stable Diffusion. `PLACES` puts them in the place of a page's names and counts. The Python of README.md and
docs/python.md that needs no Hub runs in tests/test_docs.py.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from handdata.builds.build import Build
from handdata.recipe import RenderOptions
from handdata.stages import assemble
from handdata.world.render import draw
from handtrain.model.card import model_card
from handtrain.raters.people import hands_from_csv
from tests import ROOT
from tests.chat_server import chat_server, says
from tests.finished import QUIET, finished_build
from tests.handtrain.tiny_xl import write_xl_base
from tests.handtrain.tiny_z import write_z_base
from tests.hub_server import HubServer
from tests.hub_store import User
from tests.snippets import PROGRAMS, Snippet, parse, snippets

PAGES = [ROOT / "README.md", *(path for path in sorted((ROOT / "docs").glob("*.md")) if path.name != "cli.md")]
MOST_NOT_RUN = 10

# A snippet that cannot run here, and why.
NOT_RUN = {
    "make quickstart": "sets up an environment and runs for six minutes; tests/handtrain/mini/test_scripts.py runs it",
    "make demo": "makes an environment of its own; tests/test_docs.py runs the program",
    "handtrain app --model runs/call/model --dataset DATASET --open": "a server; tests/handtrain/app runs it",
    "handtrain train --dataset quickstart/dataset --gesture palm --base mini-stable-diffusion --preset "
    "mini --lam 1 --embedding-steps 0 --unet-lr 8e-4 --unet-batch 32 --unet-epochs 0 --unet-samples 16384 "
    "--unet-warmup 50 --unet-decay linear --unet-clip 1 --text-dropout 0.1 --times late --ema 0.995 "
    "--prior 0.25 --hand-weight 4 --out runs/palm-lora": "trains for minutes; its file is in models/",
    "handtrain export runs/palm-lora --to lora --base mini-stable-diffusion --rank 32 --lora-precision "
    "fp16 --out mini-palm-lora.safetensors": "exports that run",
    "make test": "runs this test",
    "make damage": "3,000 tries; tests/test_damage.py runs 300",
    "python -m benchmarks.fetch --runs 3": "a measurement of minutes",
    "python benchmarks/render_quality.py --seed 2026 --count 20 --size 256 --sheet docs/mini_world.jpg": "minutes",
    "accelerate launch --multi_gpu --num_processes 8 -m handtrain train --dataset ... --preset fast --compile yes": "GPUs",  # noqa: E501
}

_BUILD = (
    "--select.gestures call ok --select.train 2 --select.validation 1 --select.test 1 --render.train 4 "
    "--render.validation 3 --render.test 3 --rewrite.server <<chat>> --rewrite.model any --rewrite.retries 0"
)
_FEW = "--unet-samples 8 --unet-batch 4 --prior-images 2 --unet-warmup 1 --device cpu --no-tensorboard --sample-every 0"
_TRAIN = "--preset smoke --device cpu --no-tensorboard --sample-every 0"
# A pattern in a command line, and what takes its place, in this order. <<names>> are fields of the class `Stands`.
PLACES = [
    (r'"THIS MODEL"', '"<<model>>"'),
    (r"\[--private\] \[--revision BRANCH\] \[--purge-history\]", "--private"),
    (r"^hand.*$", lambda match: re.sub(r"[\[\]]", "", match[0])),  # of optional flags
    (r"hf:USER/|hf://datasets/USER/", "hf:tester/"),
    (r"'hf:tester/NAME/data", "'published/data"),
    (r"^duckdb -c", 'python -c "import duckdb, sys; print(duckdb.sql(sys.argv[1]))"'),
    (r"^python ", f"{sys.executable} "),
    (r"^handdata photos", f"handdata photos --caption.model mini-blip {_BUILD[_BUILD.index('--rewrite'):]}"),
    (r"--train 30 --validation 0 --test 0", "--train 1 --validation 0 --test 0 --size 64"),
    (r"^handdata plan hand1000", "handdata plan hand1000 --offline"),
    (r"^handdata build hand1000 --out build/hand1000", f"handdata build mini --out build/hand1000 {_BUILD}"),
    (r"^handdata build hand1000", f"handdata build mini --until select {_BUILD}"),
    (r"--manifest manifest\.parquet", "--manifest build/paper/manifest.parquet"),
    (r"--to FOLDER|evaluate FOLDER", lambda match: match[0].replace("FOLDER", "./published")),
    (r"--clip MODEL", "--clip missing/clip"),
    (r"--image-id ID", "--image-id <<image_id>>"),
    (r"--subject SUBJECT", "--subject <<subject>>"),
    (r"(--to lora --base) MODEL", r"\1 v1-5-pruned.safetensors --images 1"),
    (r"--test 12 --size (256|64)", "--gestures call --test 1 --size 64"),
    (r"\bBUILD\b", "<<build>>"),
    (r"\bDATASET\b|\btrainset\b", "<<dataset>>"),
    (r"\b(BASE|MODEL)\b", "hf:CompVis/stable-diffusion-v1-4"),
    (r"hf:stabilityai/stable-diffusion-xl-base-1\.0", "./xl-base"),
    (r"hf:Tongyi-MAI/Z-Image", "./z-base"),
    (r"\bRUN\b", "runs/call"),
    (r"^handtrain train(?=.* --preset few)", f"handtrain train {_FEW}"),
    (r"^handtrain train(?! --unet)", f"handtrain train {_TRAIN}"),
    (r"^handtrain generate", "handtrain generate --steps 2 --limit 1 --device cpu"),
    (r"^handtrain evaluate", "handtrain evaluate --clip none --device cpu"),
    (r"^(handtrain evaluate)(?!.*--variants)", r"\1 --variants standard"),
    (r"^handtrain bench", "handtrain bench --model tiny --steps 20 --warmup 1 --presets fast --device cpu"),
    (
        r"^handtrain reproduce",
        "handtrain reproduce --gestures call --preset smoke --limit 1 --generate.steps 2 --evaluate.clip none "
        "--evaluate.variants standard --device cpu",
    ),
    (r"--train 100 --validation 10 --test 50", "--train 1 --validation 1 --test 1 --size 64"),
    (r"--train 0 --validation 0 --test 20", "--gestures call --train 0 --validation 0 --test 1 --size 64"),
    # of Python blocks
    (r'"USER/NAME"', '"tester/NAME"'),
    (r'"hand1000", "build/hand1000"', '"mini", "build/hand1000", **SMALL'),
    (r'(base="hf:CompVis/stable-diffusion-v1-4")', r'\1, preset="smoke", device="cpu", sample_every=0'),
    (r"guidance_scale=3.0", "num_inference_steps=2"),
]  # fmt: skip
SMALL_PYTHON = """
import handdata, handtrain
SMALL = {"select": {"gestures": ["call"], "train": 2, "validation": 0, "test": 1, "spare": 0.0},
         "render": {"train": 3, "validation": 1, "test": 2},
         "rewrite": {"server": "<<chat>>", "model": "any", "retries": 0}}
"""


PICKLES = """
import shutil
from pathlib import Path
import torch
from safetensors.torch import load_file
from handdata.shipped import resource
torch.save({"state_dict": load_file("v1-5-pruned.safetensors")}, "model.ckpt")
folder = Path(shutil.copytree(resource("models/mini-stable-diffusion"), "FOLDER"))
weights = folder / "unet/diffusion_pytorch_model.safetensors"
torch.save(load_file(weights), weights.with_suffix(".bin"))
weights.unlink()
"""


@dataclass
class Stands:
    """The stand-ins that the snippets of all pages share."""

    environment: dict[str, str]
    chat: str
    build: Path
    dataset: Path
    model: Path
    image_id: str = ""
    subject: str = ""

    def put(self, text: str, patterns: list[tuple[str, Any]]) -> str:
        """Return a snippet with the stand-ins in it."""
        for pattern, replacement in patterns:
            text = re.sub(pattern, replacement, text)
        for name in ("chat", "build", "dataset", "model", "image_id", "subject"):
            text = text.replace(f"<<{name}>>", str(getattr(self, name)))
        return text


def page_snippets(page: Path) -> list[Snippet]:
    """Return the snippets of a page that run here: all but the Python that tests/test_docs.py runs."""
    found = snippets(page.read_text(encoding="utf-8"))
    if page.name in ("README.md", "python.md"):
        found = [(kind, text) for kind, text in found if kind != "python" or '("hf:' in text]
    return [(kind, text) for kind, text in found if text not in NOT_RUN]


def test_snippets_that_do_not_run_are_few_and_on_a_page():
    pages = {text for page in PAGES for _, text in snippets(page.read_text(encoding="utf-8"))}
    assert set(NOT_RUN) <= pages and len(NOT_RUN) <= MOST_NOT_RUN


@pytest.mark.parametrize("text", NOT_RUN)
def test_snippets_that_do_not_run_are_parsed(text):
    words = text.split()
    if "handtrain" in words:
        whole = text.replace("...", "folder --gesture call --base folder --out folder")
        parse(whole)
        with pytest.raises(SystemExit):
            parse(f"{whole} --unknown 1")
        return
    command = ["make", "-n", "-o", ".venv/.assets", "-o", ".venv/.installed", *words[1:]]
    if words[0] == "python":
        command = [sys.executable, *words[1:], "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    if words[0] == "python":
        assert {word for word in words if word.startswith("--")} <= set(re.findall(r"--[a-z-]+", done.stdout))


def test_snippets_of_a_page_are_found_in_order():
    text = (
        "Text\n\n    handdata status B   # state\n    not a command\n\n```sh\n# only this\nhandtrain bench  # b\n```\n"
    )
    text += "```python\nx = 1\n```\n    python -m tests.hub_server\n"
    expected = [("program", "handdata status B"), ("program", "handtrain bench"), ("python", "x = 1\n")]
    assert snippets(text) == [*expected, ("shell", "python -m tests.hub_server")]


@pytest.fixture(scope="module")
def stands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stands]:
    root = tmp_path_factory.mktemp("stands")
    build = finished_build(root / "build", {"train": 3, "validation": 1, "test": 2})
    assemble.run(build, Build.open(build).recipe, QUIET)
    dataset = Path(Build.open(build).publish(root / "hands").place)
    with HubServer() as hub, chat_server(lambda request: says("no")) as chat:
        hub.tokens["hf_compvis"] = User("CompVis")
        environment = {**os.environ, **hub.environment(root / "home"), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        environment |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "OPENAI_API_KEY": ""}
        base = {**environment, "HF_TOKEN": "hf_compvis"}
        subprocess.run([sys.executable, "-c", BASE, str(root / "base")], env=base, cwd=ROOT, check=True)
        rows = pq.read_table(build / "manifest.parquet", columns=["image_id", "subject"]).to_pylist()
        yield Stands(
            environment,
            chat.url,
            build,
            dataset,
            root / "training.md/runs/call/model",
            rows[0]["image_id"],
            rows[1]["subject"],
        )


BASE = """
import sys
from pathlib import Path
import torch
from diffusers import UNet2DConditionModel
from huggingface_hub import HfApi
from tests.handtrain.tiny import WIDTH, write_base
base = write_base(Path(sys.argv[1]))
unet = UNet2DConditionModel(sample_size=8, block_out_channels=(8, 8, 16, 16), layers_per_block=2,
                            cross_attention_dim=WIDTH, attention_head_dim=2, norm_num_groups=4)
unet.save_pretrained(base / "unet")
HfApi().create_repo("CompVis/stable-diffusion-v1-4")
HfApi().upload_folder(repo_id="CompVis/stable-diffusion-v1-4", folder_path=base)
"""
CHECKPOINT = """
import sys, torch
from diffusers import UNet2DConditionModel
from tests.handtrain.model.test_import_checkpoint import _original_layout
unet = UNet2DConditionModel.from_pretrained(sys.argv[1])
torch.save({"state_dict": _original_layout(unet)}, "last.ckpt")
"""


def prepare(folder: Path, stands: Stands) -> None:
    """Put files into a page's folder that its snippets take as given."""
    if folder.name == "models.md":
        write_xl_base(folder / "xl-base")
        write_z_base(folder / "z-base")
    if folder.name == "own_gesture.md":
        _draw_photographs(folder)
    images = sorted((stands.build / "images/call").iterdir())[:2]
    for name in ("realdir", "good", "malformed", "sd15", "sdxl", "flux", "base", "tuned"):
        (folder / name).mkdir()
        for number, image in enumerate(images):
            shutil.copy(image, folder / name / f"{number}.jpg")
    rows = [f"good,0.jpg,{number},5,5,{20 + number},40,0.9,Left,call,0.5,5,\n" for number in range(200)]
    columns = "folder,image,hand,left,top,right,bottom,score,handedness,gesture,p_wrong,fingers,flaw\n"
    (folder / "hands.csv").write_text(columns + "".join(rows))
    for rater, every in (("anna", 2), ("bert", 3)):
        hands = enumerate(hands_from_csv(folder / "hands.csv"))
        answers = {hand.id: "right" if number % every else "wrong" for number, hand in hands}
        record = {"format": 1, "page": "", "rater": rater, "answers": answers}
        (folder / f"answers-{rater}.json").write_text(json.dumps(record))


def _draw_photographs(folder: Path) -> None:
    """Draw a folder of photographs of the gesture of the page, without annotations."""
    options = RenderOptions(gesture_file=("vulcan",), train=20, validation=0, test=0, size=96, oddities=False)
    draw(options, folder / "drawn", workers=2, progress=False)
    with zipfile.ZipFile(folder / "drawn" / "vulcan.zip") as archive:
        archive.extractall(folder / "unpacked")
    (folder / "unpacked" / "vulcan").rename(folder / "photographs")


def run_all(found: list[Snippet], folder: Path, stands: Stands) -> None:
    folder.mkdir(exist_ok=True)
    file = folder / "snippets.json"
    file.write_text(json.dumps([(kind, stands.put(text, PLACES)) for kind, text in found]))
    done = subprocess.run(
        [sys.executable, "-m", "tests.snippets", str(file)],
        cwd=folder, env=stands.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if page_snippets(page)], ids=lambda page: page.name)
def test_snippets_of_a_page_run(page: Path, stands: Stands) -> None:
    folder = stands.dataset.parent / page.name
    folder.mkdir()
    prepare(folder, stands)
    found = page_snippets(page)
    if any(kind == "python" and "SMALL" in stands.put(text, PLACES) for kind, text in found):
        found = [("python", SMALL_PYTHON), *found]
    if page.name == "training.md":  # a run, and a checkpoint in the released layout, as its page takes them as given
        found = _trained_first(found)
    if page.name == "models.md":  # a single file and pickles, as its page takes them as given
        export = "handtrain export mini-stable-diffusion --to single-file --out v1-5-pruned.safetensors"
        found = [("program", export), ("python", PICKLES), *found]
    if page.name == "evaluation.md":
        found = [("program", "handtrain train --dataset DATASET --gesture call --base MODEL --out runs/call"), *found]
    run_all(found, folder, stands)


def _trained_first(found: list[Snippet]) -> list[Snippet]:
    text = f"import subprocess, sys\nCODE = {CHECKPOINT!r}\n"
    text += 'subprocess.run([sys.executable, "-c", CODE, "runs/call/model/unet"], check=True)\n'
    return [found[0], ("python", text), *found[1:]]


@pytest.mark.slow
def test_snippets_of_the_cards_run(stands: Stands) -> None:
    folder = stands.dataset.parent / "cards"
    train = ("program", "handtrain train --dataset DATASET --gesture call --base MODEL --out runs/call")
    run_all([train], folder, stands)
    stands.model = folder / "runs/call/model"
    about = json.loads((stands.model / "hand1000.json").read_text())
    dataset_card, card = snippets((stands.dataset / "README.md").read_text()), snippets(model_card(about))
    assert [kind for kind, _ in (*dataset_card, *card)] == ["python", "python"]
    shutil.copytree(stands.dataset, folder / stands.dataset.name)
    run_all([*dataset_card, *card], folder, stands)


def test_snippets_of_programs_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    for page in PAGES:
        for kind, text in page_snippets(page):
            if kind == "program":
                name, command = text.split()[:2]
                assert command in PROGRAMS[name].COMMANDS, f"{page.name}: {text}"

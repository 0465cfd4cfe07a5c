"""`benchmarks/real.sh` against stand-ins on this machine for every real component."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from handdata import assets
from handdata.recipe import RenderOptions
from handdata.shipped import shipped_model
from handdata.world import render
from tests import ROOT, tiny_captioners, tiny_llama
from tests.handtrain.inceptions import write_inception_fid
from tests.handtrain.tiny import write_base
from tests.hub_server import HubServer
from tests.range_server import RangeServer, serve

pytestmark = pytest.mark.slow

COMPONENTS = [
    "HaGRID's host", "MediaPipe", "BLIP-large", "LLaMA 3 8B", "dataset", "CLIP", "Stable Diffusion 1.4", "Inception",
    "the Hub",
]  # fmt: skip


@dataclass
class Stands:
    """Stand-ins for the host of the archives and the Hub, a recipe that names the host, and Inception's weights."""

    host: RangeServer
    hub: HubServer
    folder: Path

    def run(self, out: str) -> subprocess.CompletedProcess[str]:
        """Run the script with an empty cache of the Hub's files; all names of models are the real ones."""
        environment = {**os.environ, **self.hub.environment(self.folder / f"{out}-home"), "PYTHONPATH": str(ROOT)}
        environment |= {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
        environment["HAND1000_CACHE"] = str(self.folder / "cache")  # its times would be those of the real models
        command = [str(ROOT / "benchmarks" / "real.sh"), "--out", str(self.folder / out), "--to", f"hf:tester/{out}"]
        command += ["--recipe", str(self.folder / "recipe.toml"), "--inception", str(self.folder / "inception.pth")]
        return subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def stands(tmp_path_factory) -> Iterator[Stands]:
    folder = tmp_path_factory.mktemp("real")
    render.draw(RenderOptions(("call", "ok"), train=14, validation=4, test=6, size=96), folder / "served", 0, False)
    write_inception_fid(folder / "inception.pth")
    (folder / "cache").mkdir()
    for name in ("hand-landmarker", "clip-vocabulary"):
        (folder / "cache" / assets.path(name).name).symlink_to(assets.path(name))
    with serve(folder / "served") as host, HubServer() as hub:
        source = f'annotations = "{host.url("annotations.zip")}"\nimages = "{host.url("GESTURE.zip")}"\n'
        source = source.replace("GESTURE", "{gesture}")
        (folder / "recipe.toml").write_text(
            f'name = "real"\n[source]\n{source}[select]\ngestures = ["call", "ok"]\nmax_per_subject = 0\n'
            "[rewrite]\nretries = 0\n[landmarks]\nmin_side = 0\n"
        )
        blip = shipped_model("mini-blip")
        assert blip is not None
        hub.host("Salesforce/blip-image-captioning-large", blip, licence="bsd-3-clause")
        hub.host("openai/clip-vit-base-patch32", tiny_captioners.make_clip(folder))
        hub.host("CompVis/stable-diffusion-v1-4", write_base(folder / "base"))
        model = tiny_llama.make(folder / "model.gguf", ["Yes", " sir", "<|eot_id|>"]).read_bytes()
        name = "Meta-Llama-3-8B-Instruct.Q4_K_M.gguf"
        hub.host("QuantFactory/Meta-Llama-3-8B-Instruct-GGUF", {name: model}, licence="llama3")
        yield Stands(host, hub, folder)


def table(done: subprocess.CompletedProcess[str]) -> dict[str, list[str]]:
    """Return the cells of the printed table by component."""
    rows = [line.strip("|").split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows[1:]}


def test_every_component_works_against_the_stand_ins_and_is_in_the_table(stands):
    done = stands.run("all")
    assert done.returncode == 0, done.stderr[-3000:]
    rows = table(done)
    assert list(rows) == COMPONENTS and {row[0] for row in rows.values()} == {"yes"}
    assert rows["HaGRID's host"][2] == rows["BLIP-large"][2] == "32 of 32"
    assert all(" images/s" in rows[name][1] for name in ("HaGRID's host", "MediaPipe", "Stable Diffusion 1.4"))
    assert "image-caption" in rows["CLIP"][2] and rows["Inception"][2].startswith("FID: ")
    assert len(stands.hub.files("tester/all")) > 3 and stands.hub.repos["dataset", "tester/all"].private
    assert (stands.folder / "all" / "real.md").read_text() in done.stdout


def test_a_component_that_is_down_is_named_and_the_others_run(stands):
    del stands.hub.repos["model", "openai/clip-vit-base-patch32"]
    stands.hub.repos["model", "CompVis/stable-diffusion-v1-4"].gated = True
    done = stands.run("part")
    rows = table(done)
    assert done.returncode == 1
    assert rows["CLIP"][0] == "no" and "openai/clip-vit-base-patch32" in rows["CLIP"][2]
    assert rows["Stable Diffusion 1.4"][0] == "no" and "is gated: accept its terms" in rows["Stable Diffusion 1.4"][2]
    assert rows["Inception"] == ["not run", "", "needs Stable Diffusion 1.4"]
    assert {rows[name][0] for name in COMPONENTS if name not in ("CLIP", "Stable Diffusion 1.4", "Inception")} == {
        "yes"
    }


def test_a_host_that_is_down_is_named_and_nothing_else_runs(stands):
    (stands.folder / "served").rename(stands.folder / "gone")
    done = stands.run("none")
    rows = table(done)
    assert done.returncode == 1 and rows["HaGRID's host"][0] == "no" and "annotations.zip" in rows["HaGRID's host"][2]
    assert {row[0] for name, row in rows.items() if name != "HaGRID's host"} == {"not run"}

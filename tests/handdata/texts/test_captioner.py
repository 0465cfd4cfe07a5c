"""Captioners of all families with random weights: batches, memory, failures, and the clean-up of captions."""

import json
import random
import shutil

import pytest

from handdata.builds import engine
from handdata.errors import Unfinished, UserError
from handdata.huggingface import model_folder
from handdata.recipe import CaptionOptions
from handdata.rows.shards import shard_path
from handdata.stages import Execution, stage_named
from handdata.stages.caption import Captions
from handdata.texts.captioner import FAMILIES, Captioner, clean
from handdata.vision.landmarks import decode
from tests import tiny_captioners
from tests.builds import draw_jpeg, make_build

QUIET = Execution(progress=False)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("captioners")
    return {kind: tiny_captioners.make(kind, folder / kind) for kind in FAMILIES}


def options(folder, **changed):
    return CaptionOptions(**{"model": str(folder), "device": "cpu", "max_new_tokens": 8, **changed})


IMAGES = [decode(draw_jpeg(seed, 60)) for seed in range(13)]


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_family_of_captioner_describes_images(models, kind):
    captioner = Captioner(options(models[kind]))
    captions = captioner.describe(IMAGES)
    captioner.close()
    assert len(captions) == len(IMAGES) and len(set(captions)) > 3, "captions differ between images"
    assert all(captions) and "caption en" not in " ".join(captions)


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow if number else ()) for number, kind in enumerate(FAMILIES)]
)
def test_a_caption_depends_on_neither_batch_nor_order(models, kind):
    alone = Captioner(options(models[kind], batch=1)).describe(IMAGES)
    places = list(range(len(IMAGES)))
    random.Random(3).shuffle(places)
    for batch in (2, 5, 16):
        shuffled = Captioner(options(models[kind], batch=batch)).describe([IMAGES[place] for place in places])
        assert shuffled == [alone[place] for place in places]


def test_out_of_memory_halves_the_batch_and_continues(models, monkeypatch):
    import torch

    captioner = Captioner(options(models["blip"], batch=8))
    expected = captioner.describe(IMAGES)
    sizes, generate = [], captioner._model.generate

    def tight(**inputs):
        sizes.append(len(inputs["pixel_values"]))
        if sizes[-1] > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return generate(**inputs)

    monkeypatch.setattr(captioner._model, "generate", tight)
    assert captioner.describe(IMAGES) == expected
    assert sizes[:3] == [8, 4, 2] and max(sizes[2:]) == 2

    def none(**inputs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(captioner._model, "generate", none)
    with pytest.raises(Unfinished, match=r"use cpu for --caption\.device"):
        captioner.describe(IMAGES)


def test_the_model_is_released_when_the_stage_ends(models, tmp_path, monkeypatch):
    closed = []
    close = Captioner.close
    monkeypatch.setattr(Captioner, "close", lambda self: (close(self), closed.append(self._model)))
    engine.run(stage_named("caption"), options(models["blip"]), make_build(tmp_path, 3), QUIET)
    assert closed == [None]


def test_corrupt_images_have_a_reason_and_the_rest_a_caption(models, tmp_path):
    import pyarrow.parquet as pq

    build = make_build(tmp_path, 5, corrupt=(2,))
    report = engine.run(stage_named("caption"), options(models["blip"]), build, QUIET)
    rows = pq.read_table(shard_path(build, "captions", 0)).to_pylist()
    assert report.failed == {"image-corrupt": 1}
    assert [bool(row["caption"]) for row in rows] == [True, True, False, True, True]
    again = engine.run(stage_named("caption"), options(models["blip"]), build, QUIET)
    assert again.kept_shards == 1


def test_an_empty_caption_is_a_named_reason(models, monkeypatch):
    stage = Captions(options(models["blip"]))
    monkeypatch.setattr(stage._captioner, "describe", lambda images: ["", "a man"])
    columns = stage({"image": [draw_jpeg(0), None, draw_jpeg(1)]})
    assert columns == {"caption": [None, None, "a man"], "reason": ["caption-empty", "image-missing", None]}


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("arafed man in a black shirt", "a man in a black shirt"),
        ("araffe woman with a red hat", "a woman with a red hat"),
        ("there is an arafed man on a bench", "there is a man on a bench"),
        ("arafed image of a hand", "an image of a hand"),
        ("two arafed men and araffes women", "two men and women"),
        ("a man with  a hat\n", "a man with a hat"),
        ("an old man in a giraffe suit", "an old man in a giraffe suit"),
        ("arafed", ""),
    ],
)
def test_the_captioners_invented_words_are_removed(raw, expected):
    assert clean(raw) == expected


def test_a_local_models_revision_is_the_hash_of_its_files(models, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(models["blip"], copy)
    first = model_folder(str(copy), "main")[1]
    assert first == model_folder(str(models["blip"]), "main")[1]
    config = json.loads((copy / "generation_config.json").read_text())
    (copy / "generation_config.json").write_text(json.dumps({**config, "num_beams": 2}))
    assert model_folder(str(copy), "main")[1] != first
    assert Captions.fingerprint(options(models["blip"]))["revision"] == first


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ({"model_type": "llama"}, "captioners are blip"),
        (None, "no readable config.json"),
    ],
)
def test_a_folder_without_a_captioner_is_one_sentence(tmp_path, broken, words):
    if broken is not None:
        (tmp_path / "config.json").write_text(json.dumps(broken))
    with pytest.raises(UserError, match=words):
        Captioner(options(tmp_path))


def test_missing_weights_are_one_sentence(models, tmp_path):
    shutil.copytree(models["blip"], tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").unlink()
    with pytest.raises(UserError, match="cannot be loaded"):
        Captioner(options(tmp_path / "m"))


def test_a_gpu_that_torch_cannot_use_is_an_error(models):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match="--device cuda"):
        Captioner(options(models["blip"], device="cuda"))

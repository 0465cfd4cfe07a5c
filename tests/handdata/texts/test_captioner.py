"""Captioners of all families with random weights: batches, memory, failures, and the clean-up of captions."""

import base64
import io
import json
import random
import shutil
import threading
import time

import pytest
from PIL import Image

from handdata.builds import engine
from handdata.errors import Unfinished, UserError
from handdata.huggingface import model_folder
from handdata.recipe import CaptionOptions
from handdata.rows.shards import shard_path
from handdata.stages import Execution, stage_named
from handdata.stages.caption import Captions
from handdata.texts.captioners.captioner import captioner_class, clean
from handdata.texts.captioners.local import FAMILIES, LocalCaptioner
from handdata.vision.landmarks import decode
from tests import tiny_captioners
from tests.builds import draw_jpeg, make_build
from tests.chat_server import chat_server, says

QUIET = Execution(progress=False)
KINDS = [*FAMILIES, *tiny_captioners.FOLLOWING]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("captioners")
    return {kind: tiny_captioners.make(kind, folder / kind, seed=int(kind == "qwen2_vl")) for kind in KINDS}


def options(folder, **changed):
    return CaptionOptions(**{"model": str(folder), "device": "cpu", "max_new_tokens": 8, **changed})


IMAGES = [decode(draw_jpeg(seed, 60)) for seed in range(13)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_family_of_captioner_describes_images(models, kind):
    captioner = LocalCaptioner(options(models[kind]))
    captions = captioner.describe(IMAGES)
    captioner.close()
    assert len(captions) == len(IMAGES) and len(set(captions)) > 3, "captions differ between images"
    assert all(captions) and "caption en" not in " ".join(captions)


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow if number else ()) for number, kind in enumerate(KINDS)]
)
def test_a_caption_depends_on_neither_batch_nor_order(models, kind):
    alone = LocalCaptioner(options(models[kind], batch=1)).describe(IMAGES)
    places = list(range(len(IMAGES)))
    random.Random(3).shuffle(places)
    for batch in (2, 5, 16):
        shuffled = LocalCaptioner(options(models[kind], batch=batch)).describe([IMAGES[place] for place in places])
        assert shuffled == [alone[place] for place in places]


def test_out_of_memory_halves_the_batch_and_continues(models, monkeypatch):
    import torch

    captioner = LocalCaptioner(options(models["blip"], batch=8))
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
    close = LocalCaptioner.close
    monkeypatch.setattr(LocalCaptioner, "close", lambda self: (close(self), closed.append(self._model)))
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
        LocalCaptioner(options(tmp_path))


def test_missing_weights_are_one_sentence(models, tmp_path):
    shutil.copytree(models["blip"], tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").unlink()
    with pytest.raises(UserError, match="cannot be loaded"):
        LocalCaptioner(options(tmp_path / "m"))


def test_a_gpu_that_torch_cannot_use_is_an_error(models):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match="--device cuda"):
        LocalCaptioner(options(models["blip"], device="cuda"))


def test_a_model_that_follows_requests_reads_the_recipes_prompt(models):
    first = LocalCaptioner(options(models["idefics3"]))
    other = LocalCaptioner(options(models["idefics3"], prompt="a man"))
    assert first._prompt == "user <image> Describe this photograph in one short sentence. person"
    assert other._prompt == "user <image> a man person" and first.describe(IMAGES[:4]) != other.describe(IMAGES[:4])
    plain = Captions.fingerprint(options(models["idefics3"]))
    assert "prompt" not in plain, "captions made before the key existed are kept"
    assert Captions.fingerprint(options(models["idefics3"], prompt="a man")) == {**plain, "prompt": "a man"}


def test_a_model_without_a_chat_template_cannot_follow_a_request(models, tmp_path):
    shutil.copytree(models["idefics3"], tmp_path / "m")
    (tmp_path / "m" / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="has no chat template"):
        LocalCaptioner(options(tmp_path / "m"))


def seen_size(body):
    """Answer with the size of the picture in a request, which must be a PNG file in a data URL before the prompt."""
    image, words = body["messages"][-1]["content"]
    assert words == {"type": "text", "text": "name its size"}
    head, _, data = image["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        return says(f"<think>easy</think>a {picture.width} by {picture.height} picture")


def server_options(server, **changed):
    return CaptionOptions(**{"model": "vlm", "server": server.url, "prompt": "name its size", "parallel": 4, **changed})


def test_a_server_with_a_vision_model_describes_images_several_at_once(tmp_path):
    import pyarrow.parquet as pq

    together = threading.Barrier(4, timeout=20)

    def script(body):
        together.wait()
        return seen_size(body)

    build = make_build(tmp_path, 9, corrupt=(4,))
    with chat_server(script) as server:
        extra = {"extra_body": '{"min_p": 0.1}'}
        report = engine.run(stage_named("caption"), server_options(server, **extra), build, QUIET)
        kept = engine.run(stage_named("caption"), server_options(server, parallel=2, **extra), build, QUIET)
    rows = pq.read_table(shard_path(build, "captions", 0)).to_pylist()
    sizes = [None if n == 4 else "a {1} by {0} picture".format(*decode(draw_jpeg(n)).shape) for n in range(9)]
    assert [row["caption"] for row in rows] == sizes and report.failed == {"image-corrupt": 1}
    assert server.most_at_once == 4 and all(body["min_p"] == 0.1 for body in server.requests)
    assert kept.kept_shards == 1, "the number of requests at once does not decide the captions"
    changed = Captions.fingerprint(server_options(server, prompt="other"))
    assert changed != Captions.fingerprint(server_options(server)) and server.url not in json.dumps(changed)


def test_an_image_without_an_answer_in_time_is_tried_again_by_the_next_run(tmp_path):
    slow = iter([False, True])

    def script(body):
        if next(slow, False):
            time.sleep(1.5)
        return seen_size(body)

    build = make_build(tmp_path, 3)
    with chat_server(script) as server:
        report = engine.run(stage_named("caption"), server_options(server, parallel=1, timeout=0.5), build, QUIET)
        assert report.failed == {"caption-timeout": 1}
        again = engine.run(stage_named("caption"), server_options(server), build, QUIET)
    assert again.made_shards == 1 and not again.failed


def test_a_server_that_refuses_images_and_a_wrong_extra_body_are_one_sentence():
    with chat_server(lambda body: (400, "image input is not supported")) as server:
        captioner = captioner_class(server_options(server))(server_options(server))
        with pytest.raises(UserError, match=r"rejects the request .*not supported.*check --caption\.model"):
            captioner.describe(IMAGES[:1])
        for text in ("[1]", "{", '{"model": "x"}'):
            with pytest.raises(UserError, match=r"--caption\.extra-body .* must be a JSON object"):
                captioner_class(server_options(server))(server_options(server, extra_body=text))

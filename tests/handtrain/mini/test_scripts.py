"""The scripts that train the mini models: words, mirrored captions, colours, and the loop, which resumes."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from handdata.errors import UserError
from handdata.recipe import RenderOptions
from handdata.world.render import draw
from handtrain.mini import autoencoder, diffusion, loop
from handtrain.mini.__main__ import LOG, Options, _write_log, main
from handtrain.mini.colours import agreement, colours, share
from handtrain.mini.pictures import World, exchanged, load_world
from handtrain.mini.tokenizers import texts, write_bert_vocabulary, write_clip_tokenizer

CAPTIONS = [
    "a person with tan skin and an orange sleeve in front of a blue tiled wall, the hand on the left",
    "a hand with dark skin and a bare arm on the right in front of a plain grey wall, the other hand resting",
]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    folder = tmp_path_factory.mktemp("world")
    draw(
        RenderOptions(gestures=("call",), train=3, validation=0, test=0, size=64, oddities=False),
        folder,
        progress=False,
    )
    return load_world(folder)


def test_left_is_right_in_a_mirrored_picture(world):
    assert exchanged(CAPTIONS[0]).endswith("the hand on the right")
    assert exchanged(exchanged(CAPTIONS[1])) == CAPTIONS[1]
    plain, turned = world.images([0, 0], [False, True])
    assert torch.equal(plain.flip(2), turned)
    assert not torch.equal(plain, turned)
    assert plain.min() >= -1
    assert plain.max() <= 1


def test_every_word_of_the_mini_world_and_of_the_phrases_is_one_token(world, tmp_path):
    from transformers import BertTokenizer

    clip = write_clip_tokenizer(world, tmp_path / "clip")
    write_bert_vocabulary(world, tmp_path / "vocab.txt")
    bert = BertTokenizer(vocab=str(tmp_path / "vocab.txt"))
    for text in texts(world):
        words = re.findall(r"\w+|[^\w\s]", text)
        assert clip.tokenize(text) == [word + "</w>" for word in words]
        assert bert.tokenize(text) == words
    assert "[UNK]" not in bert.tokenize("zebra")
    assert clip.decode(clip("zebra").input_ids, skip_special_tokens=True).strip() == "zebra"


def test_colours_are_read_from_a_text():
    assert colours(CAPTIONS[0]) == {"sleeve": "orange", "background": "blue"}
    assert colours(CAPTIONS[1]) == {"sleeve": "bare", "background": "grey"}
    assert colours("a red hand") == {}
    assert agreement(CAPTIONS[0], CAPTIONS[1]) == {"sleeve": False, "background": False}
    assert agreement(CAPTIONS[0], CAPTIONS[0].replace("orange", "red")) == {"sleeve": False, "background": True}
    assert agreement("a hand in front of a pink wall with a lamp", "a pink wall") == {"background": True}


def test_the_interval_of_a_share_holds_it():
    right_share = share(np.array([1.0] * 70 + [0.0] * 30))
    assert right_share.value == 0.7
    assert 0.58 < right_share.low < 0.65 < 0.75 < right_share.high < 0.82


def test_training_resumes_where_it_stopped(tmp_path, monkeypatch):
    data = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(loop, "_CHECKPOINT_SECONDS", -1)  # a checkpoint after every step

    def learnt(folder, stop: int | None) -> torch.Tensor:
        torch.manual_seed(0)
        module, steps = torch.nn.Linear(3, 3), 0

        def loss(rows, mirrored, generator):
            nonlocal steps
            if steps == stop:
                raise KeyboardInterrupt
            steps += 1
            noise = torch.randn(len(rows), 3, generator=generator)
            return ((module(data[rows] + noise) - data[rows]) ** 2).mean()

        loop.fit(loop.Schedule("line", steps=12, batch=4, lr=0.1, warmup=3), module, loss, len(data), folder)
        return module.weight.detach().clone()

    undisturbed = learnt(tmp_path / "a", None)
    with pytest.raises(KeyboardInterrupt):
        learnt(tmp_path / "b", 5)
    assert torch.equal(learnt(tmp_path / "b", None), undisturbed)
    assert json.loads((tmp_path / "a" / "line.jsonl").read_text().splitlines()[-1])["step"] == 12


def test_training_can_begin_with_a_finished_model(world, tmp_path):
    tokenizer = write_clip_tokenizer(world, tmp_path / "words")
    first, vae = diffusion.make(tokenizer), autoencoder.make()
    with torch.no_grad():
        for parameter in [*first.module().parameters(), *vae.parameters()]:
            parameter.add_(0.25)
    diffusion.save(first, vae, tmp_path / "model")
    second, other = diffusion.make(tokenizer), autoencoder.make()
    diffusion.load(second, other, tmp_path / "model")
    for mine, its in ((second.module(), first.module()), (other, vae)):
        for a, b in zip(mine.parameters(), its.parameters(), strict=True):
            assert torch.equal(a, b.half().float()), "stored in 16 bits"

    (tmp_path / "fewer").mkdir()
    fewer = World(world.pixels[:1], [{"caption": "a hand"}])
    strange = diffusion.make(write_clip_tokenizer(fewer, tmp_path / "fewer"))
    with pytest.raises(UserError, match="has other tokens"):
        diffusion.load(strange, other, tmp_path / "model")


def test_the_log_of_a_model_has_every_schedule_once(tmp_path):
    model, options = tmp_path / "model", Options(out=tmp_path, begin=tmp_path / "model", courses=("second",))
    model.mkdir()
    (model / LOG).write_text('{"course": "first", "step": 5, "loss": 0.5}\n')
    (tmp_path / "second.jsonl").write_text('{"step": 7, "loss": 0.123456789}\n')
    for _ in range(2):
        _write_log(options, model, (loop.Schedule("second", steps=7, batch=1, lr=0.1),))
    lines = [json.loads(line) for line in (model / LOG).read_text().splitlines()]
    assert lines == [
        {"course": "first", "step": 5, "loss": 0.5},
        {"course": "second", "step": 7, "loss": 0.1234568},
    ]


def test_the_decoders_schedule_does_not_change_the_latents(world, tmp_path):
    vae = autoencoder.make()
    vae.register_to_config(scaling_factor=0.75)
    before = {name: parameter.clone() for name, parameter in vae.named_parameters()}
    autoencoder.train(vae, world, tmp_path, (replace(autoencoder.DECODER, steps=2, batch=2),))
    moved = {
        name.split(".")[0] for name, parameter in vae.named_parameters() if not torch.equal(parameter, before[name])
    }
    assert moved == {"decoder", "post_quant_conv"}
    assert vae.config.scaling_factor == 0.75


@pytest.mark.parametrize(
    ("given", "words"),
    [({"courses": ("nap",)}, "unknown schedule 'nap'"), ({"begin": Path("models")}, "--begin and --courses together")],
)
def test_wrong_schedules_are_one_sentence(tmp_path, given, words):
    with pytest.raises(UserError, match=words):
        main(Options(out=tmp_path, **given))

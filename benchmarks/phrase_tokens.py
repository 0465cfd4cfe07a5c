"""Measure whether words alone choose a gesture whose phrase is a token of its own.

    python -m benchmarks.phrase_tokens --out FOLDER [--jobs 2] [--table]

FOLDER is that of `benchmarks.pose_method`. Models of `ok` are trained on 16,384 samples from three bases: the mini
model, the same with a token of a random vector in place of the phrase, and with one that 256 steps of textual inversion
(Gal and others, arXiv 2208.01618) have fitted through the frozen base. With poses a quarter of the images are trained
without theirs, so that words alone are trained too.
"""

import argparse
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks import pose_method, pose_world
from benchmarks.pose_judging import judge
from benchmarks.pose_rows import BASE, EVERY, PLUS, POSED, Part, Row
from handdata.gestures import gestures
from handdata.huggingface import parse_model
from handtrain.model.base import Base, open_base

GESTURE, SAMPLES = "ok", 16384
STEPS, BATCH, RATE = 256, 32, 5e-3  # of textual inversion


def rows() -> Iterator[tuple[str, Row]]:
    """Yield the name of the base and the training of every row."""
    free = Part("free", EVERY, 6)
    posed = (Part("own", (GESTURE,), 160), Part("words", (GESTURE,), 160), free)
    for base in ("plain", "random", "inverted"):
        options = {**PLUS, "pose_dropout": 0.25}
        yield base, Row("phrase", f"{base} posed", (GESTURE,), options, SAMPLES, posed, drawing=POSED)
    options = {**PLUS, "pose": "none"}
    yield "plain", Row("phrase", "plain no pose", (GESTURE,), options, SAMPLES, posed[1:], drawing=POSED)


def base_of(name: str, folder: Path) -> str:
    """Return the place of a row's base; one with a token is made in FOLDER unless it is there."""
    if name == "plain":
        return BASE
    target = folder / f"base-{name}"
    if not target.is_dir():
        vector: Callable[[torch.Tensor], torch.Tensor] = _random if name == "random" else lambda _: _inverted(folder)
        _write_base(target, vector)
    return str(target)


def make(name: str, row: Row, folder: Path, results: Path, threads: int) -> str:
    """Train, draw and judge a row in a process of its own; return a line about it."""
    torch.set_num_threads(threads)
    line = pose_method.make(row, folder, "cpu", threads, base_of(name, folder))
    return f"{line}; {judge(row, folder, results, True)}"


def _random(table: torch.Tensor) -> torch.Tensor:
    return torch.randn(table.shape[1], generator=torch.Generator().manual_seed(0)) * table.std()


def _write_base(target: Path, vector_of: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Copy the mini model with the gesture's phrase as one more token, whose vector `vector_of` makes."""
    from tokenizers import AddedToken

    base, phrase = _base(), gestures()[GESTURE].phrase
    tokenizer, encoder = base.tokenizers()[0], base.text_encoders()[0]
    vector = vector_of(encoder.get_input_embeddings().weight.detach())
    tokenizer.add_tokens([AddedToken(phrase, normalized=True)])
    encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        encoder.get_input_embeddings().weight[-1] = vector
    partial = target.with_name(f".{target.name}")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(base.folder, partial)
    tokenizer.save_pretrained(partial / "tokenizer")
    encoder.save_pretrained(partial / "text_encoder")
    partial.rename(target)


def _inverted(folder: Path) -> torch.Tensor:
    """Return the vector that lowers the frozen base's loss on the gesture's images most."""
    from handtrain.data.dataset import load
    from handtrain.method.batches import batch_of
    from handtrain.method.noise import image_draws
    from handtrain.presets import RunOptions, TrainOptions
    from handtrain.run.device import diffusion
    from handtrain.run.phases import Phases
    from handtrain.tensor_cache import TensorCache
    from handtrain.training.training_set import encode_splits

    plain, device = _base(), torch.device("cpu")
    worded = open_base(parse_model(base_of("random", folder), "--base"))
    options, cache = TrainOptions(lam=1.0, embedding_steps=0), TensorCache(folder / "cache")
    photographs = [load(folder / "dataset", GESTURE, "train")]
    (split,), _ = encode_splits(photographs, worded, options, torch.zeros(63), device, cache, False, Phases())
    unet, schedule, form = worded.denoiser(), worded.training_schedule(), worded.backbone.FORM
    model = diffusion(unet, schedule, worded.scaling(), options, RunOptions(), device, form)
    tokenizer, encoder = worded.tokenizers()[0], worded.text_encoders()[0]
    ids = torch.tensor([worded.backbone.ids([tokenizer], text, worded.sizes.tokens, {}) for text in split.texts])
    table, own = encoder.get_input_embeddings().weight.detach(), len(tokenizer) - 1
    words = plain.tokenizers()[0](gestures()[GESTURE].phrase, add_special_tokens=False).input_ids
    vector = torch.nn.Parameter(table[words].mean(dim=0))
    encoder.set_input_embeddings(_Table(table, own, vector))
    optimiser = torch.optim.Adam([vector], lr=RATE)
    for step in range(STEPS):
        pairs = batch_of(step, len(split), BATCH, STEPS, 0, "words")
        chosen, keys = [row for row, _ in pairs], [(split.image_ids[row], epoch) for row, epoch in pairs]
        draw = image_draws(0, "words", keys, split.latents.shape, model.timesteps)
        loss = model.losses(split.latents[chosen], draw, encoder(ids[chosen])[0]).mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return vector.detach()


class _Table(torch.nn.Module):
    """A table of tokens, one of which has a trained vector."""

    def __init__(self, table: torch.Tensor, own: int, vector: torch.nn.Parameter) -> None:
        super().__init__()
        self.table, self.own, self.vector = table, own, vector

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        known = torch.nn.functional.embedding(ids, self.table)
        return torch.where((ids == self.own)[..., None], self.vector, known)


def moved(folder: Path) -> str:
    """Return by how much the phrase, and another caption, move the embedding of the last 40 tokens, all padding."""
    from handtrain.data.dataset import load

    base, phrase = _base(), gestures()[GESTURE].phrase
    tokenizers, encoders = base.tokenizers(), base.text_encoders()

    def padding(text: str) -> torch.Tensor:
        ids = base.backbone.ids(tokenizers, text, base.sizes.tokens, {})
        return base.backbone.encode(encoders, ids)["embedding"][-40:]

    texts = [row.text for row in load(folder / "dataset", GESTURE, "test").rows]
    named = torch.stack([padding(text) for text in texts])
    free = torch.stack([padding(text.replace(phrase, " ").strip(" ,")) for text in texts])
    medians = [
        float((first - second).square().mean(dim=(1, 2)).sqrt().median())
        for first, second in ((named, free), (free, free.roll(1, 0)))
    ]
    return f"root mean square of the change, median of {len(texts)} texts: phrase {medians[0]:.3f}, " \
        f"another caption {medians[1]:.3f}"  # fmt: skip


def _base() -> Base:
    return open_base(parse_model(BASE, "--base"))


def table(results: Path) -> str:
    """Return a Markdown table of the finished rows."""
    import json

    lines = ["| row | posed | words alone | without request |", "|---|---|---|---|"]
    for _, row in rows():
        file = results / f"{row.name}.json"
        if file.is_file():
            parts: dict[str, Any] = {part["kind"]: part for part in json.loads(file.read_text("utf-8"))["parts"]}
            unasked = parts["free"]["gestures"].get(GESTURE, 0) / parts["free"]["n"]
            shares = [parts[kind]["accuracy"] if kind in parts else None for kind in ("own", "words")] + [unasked]
            cells = ["" if share is None else f"{share:.1%}" for share in shares]
            lines.append("| " + " | ".join([row.variant, *cells]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Make the missing rows, and print the table of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--results", type=Path, default=pose_method.RESULTS)
    parser.add_argument("--table", action="store_true", help="print the table of the finished rows alone")
    given = parser.parse_args()
    missing = [pair for pair in rows() if not (given.results / f"{pair[1].name}.json").is_file()]
    if missing and not given.table:
        pose_world.prepare(given.out, given.jobs)
        for name in ("random", "inverted"):
            base_of(name, given.out)
        with pose_world.pool(given.jobs) as workers:
            coming = [workers.submit(make, *pair, given.out, given.results, 1) for pair in missing]
            for future in coming:
                print(future.result(), file=sys.stderr, flush=True)
    print(table(given.results))
    if (given.out / "dataset").is_dir():
        print(moved(given.out))


if __name__ == "__main__":
    main()

"""The tensors that Stages II and III train on: latents, loss weights and embeddings of the images and texts."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from threading import Event
from typing import Any, TypeVar

import numpy as np
import torch

from handdata.progress import bar
from handtrain.data.crops import hand_weights
from handtrain.data.dataset import Photographs, row_window
from handtrain.data.rows import Row
from handtrain.method.diffusion import Latents
from handtrain.method.fusion import FlatFusion, TokenFusion, mix
from handtrain.method.gesture import NUMBERS, hand_in_box
from handtrain.method.poses import pose_of_row
from handtrain.method.prediction import Texts, lengthened
from handtrain.model.base import Base
from handtrain.presets import TrainOptions, routes
from handtrain.run.phases import Phases
from handtrain.tensor_cache import TensorCache
from handtrain.training.encode import encode_images, encode_texts, fuse_flat

Result = TypeVar("Result")


@dataclass(frozen=True)
class EncodedSplit:
    """The encoded images and texts of a split, on the CPU, in the order of its rows."""

    image_ids: list[str]
    texts: list[str]
    latents: Latents
    text: torch.Tensor  # (n, tokens, width), T
    mixed: torch.Tensor  # (n, tokens, width), E = lam * T + (1 - lam) * F; T itself until a token layer is trained
    groups: tuple[int, ...] = ()  # number of rows of each gesture, in order; empty: one gesture

    def __len__(self) -> int:
        return len(self.image_ids)

    def prompts(self, rows: slice | list[int]) -> Texts:
        """Return the mixed texts of rows, as generation reads them."""
        return Texts(self.mixed[rows], self.latents[rows].more)

    def fused(self, layer: TokenFusion, feature: torch.Tensor, lam: float, device: torch.device) -> "EncodedSplit":
        """Return the split with F from a trained token layer."""
        with torch.no_grad():
            fused = [layer(text[None].to(device), feature.to(device)).cpu() for text in self.text]
        return replace(self, mixed=mix(self.text, torch.cat(fused), lam))


def merged(splits: Sequence[EncodedSplit]) -> EncodedSplit:
    """Return the splits of several gestures as one; a single one unchanged."""
    if len(splits) == 1:
        return splits[0]
    names, texts = ([value for split in splits for value in getattr(split, of)] for of in ("image_ids", "texts"))
    text, mixed = (joined_embeddings([getattr(split, of) for split in splits]) for of in ("text", "mixed"))
    return EncodedSplit(
        names, texts, _joined_latents([split.latents for split in splits]), text, mixed, tuple(map(len, splits))
    )


def in_turns(split: EncodedSplit) -> EncodedSplit:
    """Return a split of several gestures with their rows in turns, so that its first rows are of all of them."""
    if not split.groups:
        return split
    turns = [(turn, number) for number, size in enumerate(split.groups) for turn in range(size)]
    rows = sorted(range(len(turns)), key=lambda row: turns[row])
    names, texts = ([values[row] for row in rows] for values in (split.image_ids, split.texts))
    return EncodedSplit(names, texts, split.latents[rows], split.text[rows], split.mixed[rows])


def joined_embeddings(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return embeddings (n, tokens, width) one behind the other, padded to as many tokens as the longest has."""
    longest = max(part.shape[1] for part in parts)
    return torch.cat([lengthened(part, longest) for part in parts])


def encode_splits(
    splits: Sequence[Photographs],
    base: Base,
    options: TrainOptions,
    feature: torch.Tensor,
    device: torch.device,
    cache: TensorCache,
    progress: bool,
    phases: Phases,
) -> tuple[list[EncodedSplit], Texts]:
    """Encode splits; return them and '' as a single text.

    The text encoder and the VAE are loaded one after the other, each for all splits. With a GPU a CPU core draws the
    flat layer meanwhile.
    """
    phases.begin("encode")
    texts = [[row.text for row in split.rows] for split in splits]
    all_texts = [text for of_split in texts for text in of_split] + [""]
    encoded = encode_texts(all_texts, base, device, cache, progress)
    prompts, count = encoded.embedding[:-1], len(all_texts) - 1

    def mixture(check: Callable[[], None]) -> torch.Tensor:
        if options.fusion != "flat" or options.lam == 1:
            return prompts
        layer = FlatFusion(options.seed, base.sizes.tokens, base.sizes.width, NUMBERS)
        return mix(prompts, fuse_flat(layer, prompts, feature, cache, progress, device, check), options.lam)

    with begun(mixture, device.type == "cuda") as mixed_texts:
        with phases.inside("load"):
            vae = base.vae().to(device)
        latents = [_latents(split, vae, base, options, cache, progress) for split in splits]
        del vae
        with phases.inside("fusion"):
            mixed = mixed_texts()
    names, sizes = [[row.image_id for row in split.rows] for split in splits], [len(of_split) for of_split in texts]
    starts = [sum(sizes[:place]) for place in range(len(sizes))]
    latents = [
        replace(of_split, more={**of_split.more, **encoded[start : start + size].more})
        for of_split, start, size in zip(latents, starts, sizes, strict=True)
    ]
    columns = (names, texts, latents, torch.split(prompts, sizes), torch.split(mixed, sizes))
    return [_of_own_length(EncodedSplit(*values)) for values in zip(*columns, strict=True)], encoded[count:]


def _of_own_length(split: EncodedSplit) -> EncodedSplit:
    """Return a split whose embeddings are as long as its longest text.

    The other splits' texts change nothing: only the first process has those of `validation`.
    """
    lengths = split.latents.more.get("length")
    if lengths is None:
        return split
    longest = int(lengths.max())
    return replace(split, text=split.text[:, :longest], mixed=split.mixed[:, :longest])


@contextmanager
def begun(compute: Callable[[Callable[[], None]], Result], in_thread: bool) -> Iterator[Callable[[], Result]]:
    """Yield a function that returns a result: computed when it is called, or begun in a thread of its own at once.

    A block that is left early ends the thread too, at the next call of the function that `compute` is given.
    """
    left = Event()

    def check() -> None:
        if left.is_set():
            raise CancelledError

    if not in_thread:
        yield partial(compute, check)
        return
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(compute, check)
        try:
            yield future.result
        finally:
            left.set()


def recomputed_landmarks(photographs: Photographs, progress: bool) -> list[Row]:
    """Return the rows with landmarks from a new run of MediaPipe on their images instead of the dataset's.

    The hand that makes the gesture is the one that overlaps most with the annotated box.
    """
    from handdata.vision.landmarks import HandFinder, decode

    rows = []
    with HandFinder() as finder:
        for index, row in enumerate(bar(photographs.rows, desc="landmarks", unit="image", show=progress)):
            image = decode(photographs.image(index))
            if image is None or row.box is None:
                rows.append(replace(row, landmarks=None))
                continue
            hands = finder.find(image)
            chosen = hand_in_box(hands.landmarks, row.box)
            points = tuple(map(tuple, hands.landmarks[chosen].tolist())) if chosen >= 0 else None
            rows.append(replace(row, landmarks=points, left_hand=chosen >= 0 and hands.handedness[chosen] == "Left"))
    return rows


def _latents(
    split: Photographs, vae: Any, base: Base, options: TrainOptions, cache: TensorCache, progress: bool
) -> Latents:
    windows = [row_window(row, base.resolution, options.crop) for row in split.rows]
    mean, deviation = encode_images(split, windows, vae, cache, progress)
    if base.shift():
        mean = mean - base.shift()
    more = base.backbone.image_inputs([(row.width, row.height) for row in split.rows], windows)
    poses = None
    if routes(options):
        of_rows = [pose_of_row(row, base.resolution, options.crop) for row in split.rows]
        poses = torch.from_numpy(np.stack(of_rows))
    if options.hand_weight == 1:
        return Latents(mean, deviation, None, poses, more)
    height, width = mean.shape[2:]
    weights = [
        hand_weights(cut.box(row.box) if row.box else None, height, width, options.hand_weight)
        for row, cut in zip(split.rows, windows, strict=True)
    ]
    return Latents(mean, deviation, torch.stack([torch.from_numpy(of_image) for of_image in weights]), poses, more)


def _joined_latents(parts: Sequence[Latents]) -> Latents:
    columns = zip(*((part.mean, part.deviation, part.weights, part.poses) for part in parts), strict=True)
    mean, deviation, weights, poses = (None if values[0] is None else torch.cat(values) for values in columns)
    more = {name: torch.cat([part.more[name] for part in parts]) for name in parts[0].more}
    return Latents(mean, deviation, weights, poses, more)  # type: ignore[arg-type]

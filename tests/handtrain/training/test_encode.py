from pathlib import Path
from typing import Any

import pytest
import torch

from handtrain.data.crops import square
from handtrain.data.dataset import load, row_window
from handtrain.model.base import open_base
from handtrain.tensor_cache import TensorCache
from handtrain.training.encode import encode_images, encode_texts


@pytest.fixture
def cache(tmp_path: Path) -> TensorCache:
    return TensorCache(tmp_path / "cache")


def _files(cache: TensorCache) -> list[Path]:
    return sorted(cache.folder.rglob("*.safetensors"))


def test_an_image_is_stored_as_mean_and_deviation_of_the_posterior(
    base: Path, dataset: Path, cache: TensorCache
) -> None:
    photographs, vae = load(dataset, "call", limit=2), open_base(base).vae()
    windows = [row_window(row, 16, "center") for row in photographs.rows]
    mean, deviation = encode_images(photographs, windows, vae, cache, progress=False)
    pixels = torch.from_numpy(square(photographs.image(1), windows[1]))[None]
    posterior = vae.encode(pixels).latent_dist
    assert torch.equal(mean[1:], posterior.mean)
    assert torch.equal(deviation[1:], posterior.std)
    assert mean.shape == (2, 4, 8, 8)


def test_a_cached_image_is_not_encoded_again(base: Path, dataset: Path, cache: TensorCache) -> None:
    photographs, vae = load(dataset, "call"), open_base(base).vae()
    windows = [row_window(row, 16, "center") for row in photographs.rows]
    first = encode_images(photographs, windows, vae, cache, progress=False)
    vae.encode = None  # would fail if it were called
    second = encode_images(photographs, windows, vae, cache, progress=False)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_groups_of_images_are_encoded_to_the_same_bits_in_two_goes(
    base: Path, dataset: Path, cache: TensorCache, tmp_path: Path
) -> None:
    photographs, opened = load(dataset, "call"), open_base(base)
    windows = [row_window(row, 16, "center") for row in photographs.rows]
    one = encode_images(photographs, windows, opened.vae(), cache, progress=False, together=2)
    assert len(_files(cache)) == 3, "five images in groups of two"
    vae, other = opened.vae(), TensorCache(tmp_path / "other")
    encode, groups = vae.encode, []

    def stopped(pixels: torch.Tensor) -> Any:
        groups.append(len(pixels))
        if len(groups) == 2:
            raise KeyboardInterrupt
        return encode(pixels)

    vae.encode = stopped
    with pytest.raises(KeyboardInterrupt):
        encode_images(photographs, windows, vae, other, progress=False, together=2)
    two = encode_images(photographs, windows, vae, other, progress=False, together=2)
    assert groups == [2, 2, 2, 1], "the first group is not encoded again"
    singly = encode_images(photographs, windows, opened.vae(), cache, progress=False)
    for first, second, alone in zip(one, two, singly, strict=True):
        assert torch.equal(first, second) and first.shape == (5, 4, 8, 8)
        torch.testing.assert_close(first, alone, rtol=0, atol=1e-5)
    assert len(_files(cache)) == 3 + 5, "single images are other entries"


def test_another_crop_or_another_vae_is_another_key(base: Path, dataset: Path, cache: TensorCache) -> None:
    photographs, vae = load(dataset, "call", limit=1), open_base(base).vae()
    windows = [row_window(row, 16, "center") for row in photographs.rows]
    encode_images(photographs, windows, vae, cache, progress=False)
    encode_images(photographs, [row_window(row, 16, "hand") for row in photographs.rows], vae, cache, progress=False)
    assert len(_files(cache)) == 2
    with torch.no_grad():
        next(vae.parameters()).add_(0.01)
    encode_images(photographs, windows, vae, cache, progress=False)
    assert len(_files(cache)) == 3


@pytest.mark.parametrize("damage", ["cut short", "one bit", "another entry"])
def test_a_damaged_entry_is_encoded_again(base: Path, cache: TensorCache, damage: str) -> None:
    opened = open_base(base)

    def encode() -> torch.Tensor:
        return encode_texts(["a", "b"], opened, torch.device("cpu"), cache, progress=False).embedding

    right = encode()
    first, second = _files(cache)
    data = bytearray(first.read_bytes())
    if damage == "cut short":
        data = data[:100]
    elif damage == "one bit":
        data[-5] ^= 1
    else:
        data = bytearray(second.read_bytes())
    first.write_bytes(data)
    assert torch.equal(encode(), right)
    assert first.read_bytes() != data


def test_texts_are_padded_and_go_through_the_final_layer_norm(base: Path, cache: TensorCache) -> None:
    opened = open_base(base)
    tokenizer, encoder = opened.tokenizer(), opened.network("text_encoder")
    embeddings = encode_texts(["a hand", ""], opened, torch.device("cpu"), cache, progress=False).embedding
    assert embeddings.shape == (2, 77, 16)
    ids = torch.tensor([tokenizer("a hand", padding="max_length", max_length=77).input_ids])
    assert torch.equal(embeddings[0], encoder(ids).last_hidden_state[0])
    assert float(embeddings.mean(-1).abs().max()) < 1e-5  # a layer norm's output, its weights 1 and 0 in a fresh model


def test_no_partial_file_remains(cache: TensorCache, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        cache.put("00ff", {"x": torch.zeros(3)})
    assert not [path for path in cache.folder.rglob("*") if path.is_file()]

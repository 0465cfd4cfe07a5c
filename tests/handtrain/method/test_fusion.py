import hashlib
from pathlib import Path

import pytest
import torch

from handtrain.method.fusion import GROUP, FlatFusion, TokenFusion, mix
from handtrain.tensor_cache import TensorCache, key_of
from handtrain.training.encode import fuse_flat

LAYER = FlatFusion(seed=7, tokens=5, width=6, numbers=63)


def _inputs(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 5, 6, generator=generator), torch.randn(63, generator=generator)


@pytest.mark.parametrize("block_rows", [1, 7, 30])
def test_the_flat_layer_is_torchs_own_linear(block_rows: int) -> None:
    text, feature = _inputs(3)
    torch.manual_seed(7)
    linear = torch.nn.Linear(5 * 6 + 63, 5 * 6)
    theirs = linear(torch.cat([text.flatten(1), feature.expand(3, -1)], dim=1)).reshape(3, 5, 6)
    assert torch.allclose(LAYER(text, feature, block_rows), theirs, atol=1e-6)
    assert not torch.allclose(LAYER(text, 2 * feature, block_rows), theirs, atol=1e-2)


def test_another_seed_is_another_layer() -> None:
    text, feature = _inputs(1)
    assert not torch.allclose(LAYER(text, feature), FlatFusion(8, 5, 6, 63)(text, feature), atol=1e-2)


def test_a_prompts_bits_do_not_depend_on_the_other_prompts() -> None:
    text, feature = _inputs(GROUP + 5)
    everything = LAYER(text, feature)
    assert torch.equal(LAYER(text[3:4], feature), everything[3:4])
    assert torch.equal(LAYER(text[GROUP + 1 :], feature), everything[GROUP + 1 :])


def test_another_random_stream_is_refused() -> None:
    LAYER.require_same_stream(LAYER.first_block_sha256())
    with pytest.raises(ValueError, match="draws other random numbers from seed 7"):
        LAYER.require_same_stream(FlatFusion(8, 5, 6, 63).first_block_sha256())


def test_the_cache_gives_the_same_bits_as_the_layer(tmp_path: Path) -> None:
    text, feature = _inputs(4)
    fresh = LAYER(text, feature)
    cache = TensorCache(tmp_path)
    assert torch.equal(fuse_flat(LAYER, text[:2], feature, cache, progress=False), fresh[:2])
    assert torch.equal(fuse_flat(LAYER, text, feature, cache, progress=False), fresh)  # two cached, two computed
    assert torch.equal(fuse_flat(_Broken(7, 5, 6, 63), text, feature, cache, progress=False), fresh)


def test_a_gpu_has_its_own_entries_and_those_of_a_cpu_stay(tmp_path: Path) -> None:
    text, feature = _inputs(2)
    cache, layer = TensorCache(tmp_path), _Named(7, 5, 6, 63)
    of_cpu = fuse_flat(LAYER, text, feature, cache, progress=False)
    common = {"seed": 7, "tokens": 5, "width": 6, "numbers": 63, "first_block": LAYER.first_block_sha256()}
    keys = [
        key_of(what="flat", **common, feature=feature.tolist(), text=hashlib.sha256(one.numpy().tobytes()).hexdigest())
        for one in text
    ]
    assert {file.stem for file in tmp_path.rglob("*.safetensors")} == set(keys)
    of_gpu = fuse_flat(layer, text, feature, cache, progress=False, device="cuda")
    assert torch.equal(of_gpu, torch.full_like(text, 4))
    assert torch.equal(fuse_flat(layer, text, feature, cache, progress=False, device="cuda"), of_gpu)
    assert torch.equal(fuse_flat(_Broken(7, 5, 6, 63), text, feature, cache, progress=False), of_cpu)


def test_the_token_layer_starts_as_the_text_itself() -> None:
    text, feature = _inputs(2)
    assert torch.equal(TokenFusion(6, 63)(text, feature), text)


def test_mix_weights_the_text_by_the_share() -> None:
    text, fused = torch.ones(2), torch.zeros(2)
    assert mix(text, fused, 0.7).tolist() == pytest.approx([0.7, 0.7])


class _Broken(FlatFusion):
    def __call__(self, *_: object, **__: object) -> torch.Tensor:
        raise AssertionError("the cache was not used")


class _Named(FlatFusion):
    """Stands in for a GPU: the result is the length of the device's name."""

    def __call__(
        self, text: torch.Tensor, *_: object, device: torch.device | str = "cpu", **__: object
    ) -> torch.Tensor:
        return torch.full_like(text, len(str(device)))

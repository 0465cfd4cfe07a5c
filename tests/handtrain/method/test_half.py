"""A copy in bfloat16 computes, the network in float32 is trained; norms compute their statistics in float32."""

import copy
from typing import Any

import pytest
import torch

from handtrain.method.half import HalfCopy


def network() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.LayerNorm(32), torch.nn.SiLU(), torch.nn.Linear(32, 4))


def loss(module: torch.nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    squares: torch.Tensor = module(inputs.bfloat16()).float() ** 2
    return squares.mean(dim=1)


def test_the_weights_follow_adam_in_float32_on_the_gradients_of_the_copy() -> None:
    ours, reference = network(), network()
    half = HalfCopy(ours)
    half.follow(ours)
    optimiser = torch.optim.Adam(ours.parameters(), lr=1e-6)
    expected = torch.optim.Adam(reference.parameters(), lr=1e-6)
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        inputs = torch.randn(6, 8, generator=generator)
        loss(half.network, inputs).mean().backward()  # type: ignore[no-untyped-call]
        optimiser.zero_grad()
        half.collect()
        optimiser.step()
        half.update()
        rounded = copy.deepcopy(reference).bfloat16()  # without the copy's code: a fresh one at every step
        loss(rounded, inputs).mean().backward()  # type: ignore[no-untyped-call]
        for weight, of_rounded in zip(reference.parameters(), rounded.parameters(), strict=True):
            assert of_rounded.grad is not None
            weight.grad = of_rounded.grad.float()
        expected.step()
    for mine, other, own in zip(ours.parameters(), reference.parameters(), half.network.parameters(), strict=True):
        assert mine.dtype == torch.float32
        assert torch.equal(mine, other)
        assert torch.equal(own, mine.bfloat16())
        assert own.grad is None


def test_steps_below_the_resolution_of_bfloat16_add_up() -> None:
    ours = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.ones_(ours.weight)
    half = HalfCopy(ours)
    half.follow(ours)
    optimiser = torch.optim.SGD(ours.parameters(), lr=1e-4)
    for _ in range(50):
        half.network(torch.ones(1, 1).bfloat16()).sum().backward()  # type: ignore[no-untyped-call]
        optimiser.zero_grad()
        half.collect()
        optimiser.step()
        half.update()
    assert ours.weight.item() == pytest.approx(1 - 50e-4, abs=1e-6)
    assert half.network.weight.item() < 1  # one such step alone is rounded away
    assert torch.tensor(1 - 1e-4).bfloat16() == 1


def test_gradients_of_parts_add_up_in_float32() -> None:
    ours, inputs = network(), torch.randn(16, 8, generator=torch.Generator().manual_seed(2))
    half = HalfCopy(ours)
    half.follow(ours)
    totals = [torch.zeros_like(weight) for weight in ours.parameters()]
    for row in inputs:
        loss(half.network, row[None]).sum().backward()  # type: ignore[no-untyped-call]
        for total, own in zip(totals, half.network.parameters(), strict=True):
            total += own.grad.float()
        half.collect()
    for weight, total in zip(ours.parameters(), totals, strict=True):
        assert weight.grad is not None
        assert torch.equal(weight.grad, total)


def test_frozen_weights_have_no_gradients_in_the_copy() -> None:
    ours = network()
    half = HalfCopy(ours)
    ours.requires_grad_(False)
    ours[3].requires_grad_(True)
    half.follow(ours)
    loss(half.network, torch.ones(1, 8)).sum().backward()  # type: ignore[no-untyped-call]
    half.collect()
    assert [weight.grad is not None for weight in ours.parameters()] == [False] * 4 + [True] * 2


def test_the_copy_is_on_a_device_of_its_own_and_shares_what_the_network_shares() -> None:
    ours = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 8))
    ours[2].weight = ours[0].weight
    here, elsewhere = HalfCopy(ours).network, HalfCopy(ours, torch.device("meta")).network
    assert here[2].weight is here[0].weight
    kinds = {name: tensor.dtype for name, tensor in here.state_dict().items()}
    assert kinds.pop("1.num_batches_tracked") == torch.int64
    assert set(kinds.values()) == {torch.bfloat16}
    assert {tensor.device.type for tensor in elsewhere.state_dict().values()} == {"meta"}
    assert {(tensor.device.type, tensor.requires_grad) for tensor in ours.parameters()} == {("cpu", True)}
    assert not any(tensor.requires_grad for tensor in here.parameters())


def test_a_pipeline_may_call_the_copy_with_float32() -> None:
    class Timed(torch.nn.Linear):
        def forward(self, sample: torch.Tensor, timestep: torch.Tensor, more: Any = None) -> torch.Tensor:
            assert timestep.dtype == more["ids"].dtype == torch.int64
            return super().forward(sample)

    half, sample = HalfCopy(Timed(8, 8)), torch.ones(2, 8)
    named = {"timestep": torch.tensor(7), "more": {"ids": torch.tensor([1])}}
    expected = half(sample, **named)
    with half.converting():
        assert torch.equal(half.network(sample, torch.tensor(7), more=named["more"]), expected)
    with pytest.raises(RuntimeError, match="dtype"):
        half.network(sample, torch.tensor(7), more=named["more"])


@pytest.mark.parametrize("norm", [torch.nn.GroupNorm(2, 8), torch.nn.LayerNorm([8, 64, 64])])
def test_norms_of_bfloat16_have_statistics_in_float32(norm: torch.nn.Module) -> None:
    # 16,384 values about 100 with a deviation of 1: sums in bfloat16 end at 32,768 and leave nothing of the deviation
    values = (100 + torch.randn(2, 8, 64, 64, generator=torch.Generator().manual_seed(3))).bfloat16()
    exact = norm.double()(values.double())
    ours = norm.bfloat16()(values)
    assert (ours.double() - exact).abs().max() < 0.02  # half a unit in the last place of values up to 4

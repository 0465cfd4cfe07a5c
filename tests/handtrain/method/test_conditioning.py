from typing import Any

import pytest
import torch

from handtrain.method.conditioning import attach, guided, joint_maps, make_pose_layers, normalised_pose

ROUTES = ("map", "time", "tokens")


def _unet() -> Any:
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    make: Any = UNet2DConditionModel
    return make(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, cross_attention_dim=16,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=2, norm_num_groups=4,
    ).eval()  # fmt: skip


def _poses(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.cat([torch.rand(count, 63, generator=generator), torch.ones(count, 1)], dim=1)


def _inputs(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(count, 4, 8, 8, generator=generator), torch.randn(count, 5, 16, generator=generator)


def _stirred(routes: tuple[str, ...]) -> tuple[Any, Any]:
    """Return a UNet with attached layers whose weights are not zero."""
    unet = _unet()
    layers = make_pose_layers(unet, routes)
    with torch.no_grad():
        for parameter in layers.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    attach(unet, layers)
    return unet, layers


@pytest.mark.parametrize("routes", [("map",), ("time",), ("map", "time")])
def test_new_layers_of_map_and_time_change_no_prediction(routes: tuple[str, ...]) -> None:
    sample, text = _inputs(2)
    with torch.no_grad():
        before = _unet()(sample, 5, text).sample
        unet = _unet()
        layers = make_pose_layers(unet, routes)
        attach(unet, layers)
        layers.poses = _poses(2)
        assert torch.equal(unet(sample, 5, text).sample, before)


@pytest.mark.parametrize("route", ROUTES)
def test_each_route_distinguishes_poses_and_no_pose(route: str) -> None:
    unet, layers = _stirred((route,))
    sample, text = (tensor[:1].expand(3, *[-1] * (tensor.ndim - 1)) for tensor in _inputs(1))
    layers.poses = torch.cat([_poses(2), torch.full((1, 64), torch.nan)])
    with torch.no_grad():
        first, second, none = unet(sample, 5, text).sample
        layers.poses = None
        alone = unet(sample[:1], 5, text[:1]).sample[0]
    assert all((a - b).abs().max() > 1e-4 for a, b in ((first, second), (first, none), (second, none)))
    torch.testing.assert_close(alone, none)  # without poses every pose is open


def test_the_map_has_its_peaks_at_the_joints_x_across_and_y_down() -> None:
    pose = torch.zeros(1, 64)
    pose[0, 0:2] = torch.tensor([0.8125, 0.1875])  # the wrist's x and y: column 6 and row 1 of 8
    maps = joint_maps(pose, 8, 8)
    assert maps.shape == (1, 22, 8, 8)
    assert divmod(int(maps[0, 0].argmax()), 8) == (1, 6)
    assert maps[0, 0].max() == pytest.approx(1)
    assert joint_maps(torch.full((1, 64), torch.nan), 8, 8).abs().max() == 0


def test_the_numbers_separate_the_shape_from_place_and_size() -> None:
    pose = _poses(1)
    joints = pose[:, :63].view(1, 21, 3)
    moved = pose.clone()
    moved[:, :63] = (0.5 * joints + torch.tensor([0.2, 0.1, 0.4])).flatten(1)
    before, after = normalised_pose(pose), normalised_pose(moved)
    torch.testing.assert_close(before[:, :63], after[:, :63], atol=1e-5, rtol=0)
    assert (before[:, 63:66] - after[:, 63:66]).abs().min() > 0.05
    assert after[0, 66] == 1  # a left hand


@pytest.mark.parametrize("guidance", [3.0, 1.0])
def test_two_guidances_are_the_sum_of_three_predictions(guidance: float) -> None:
    unet, layers = _stirred(ROUTES)
    sample, text = _inputs(2)
    empty, poses, scale = torch.zeros_like(text), _poses(2), 1.7

    def predicted(words: torch.Tensor, asked: torch.Tensor | None) -> torch.Tensor:
        layers.poses = asked
        return unet(sample, 5, words, return_dict=False)[0]  # type: ignore[no-any-return]

    with torch.no_grad():
        nothing, words, both = predicted(empty, None), predicted(text, None), predicted(text, poses)
        doubled = guidance > 1
        with guided(layers, poses, guidance, scale):
            pair = torch.cat([sample, sample] if doubled else [sample])
            states = torch.cat([empty, text] if doubled else [text])
            parts = unet(pair, 5, states, return_dict=False)[0].chunk(2 if doubled else 1)
    result = parts[0] + guidance * (parts[1] - parts[0]) if doubled else parts[0]
    expected = nothing + guidance * (words - nothing) + scale * (both - words)
    torch.testing.assert_close(result, expected if doubled else words + scale * (both - words), atol=1e-5, rtol=1e-4)
    assert layers.poses is None


def test_equal_guidances_are_one_condition() -> None:
    unet, layers = _stirred(ROUTES)
    sample, text = _inputs(1)
    poses = _poses(1)
    results = []
    with torch.no_grad():
        for scale in (None, 3.0, 3.0 + 1e-9):
            with guided(layers, poses, 3.0, scale):
                pair, states = torch.cat([sample] * 2), torch.cat([torch.zeros_like(text), text])
                without, given = unet(pair, 5, states, return_dict=False)[0].chunk(2)
                results.append(without + 3.0 * (given - without))
    assert torch.equal(results[0], results[1])
    torch.testing.assert_close(results[0], results[2], atol=1e-4, rtol=1e-4)

import torch

from handtrain.method.noise import image_draws, reference_draws, seed_of, shuffled

SHAPE = (4, 8, 8)


def test_an_image_draws_the_same_in_any_batch() -> None:
    together = image_draws(0, "unet", [("a", 0), ("b", 3), ("c", 1)], SHAPE, 1000)
    alone = image_draws(0, "unet", [("b", 3)], SHAPE, 1000)
    assert torch.equal(together.noise[1:2], alone.noise)
    assert torch.equal(together.posterior[1:2], alone.posterior)
    assert torch.equal(together.timesteps[1:2], alone.timesteps)


def test_image_step_stage_and_seed_each_change_the_draw() -> None:
    noise = image_draws(0, "unet", [("a", 0)], SHAPE, 1000).noise
    for other in (
        image_draws(1, "unet", [("a", 0)], SHAPE, 1000),
        image_draws(0, "stage2", [("a", 0)], SHAPE, 1000),
        image_draws(0, "unet", [("b", 0)], SHAPE, 1000),
        image_draws(0, "unet", [("a", 1)], SHAPE, 1000),
    ):
        assert not torch.equal(noise, other.noise)


def test_times_cover_the_schedule_evenly() -> None:
    times = image_draws(0, "unet", [("a", step) for step in range(4000)], (1, 1, 1), 1000).timesteps
    assert (int(times.min()), int(times.max())) == (0, 999)
    assert abs(float(times.float().mean()) - 499.5) < 15


def test_the_reference_order_is_posterior_start_code_then_noise_and_time() -> None:
    draws = reference_draws(0, SHAPE, 1000, steps=3)
    torch.manual_seed(0)
    posterior, _unused = torch.randn(1, *SHAPE), torch.randn(1, *SHAPE)
    for draw in draws:
        assert torch.equal(draw.posterior, posterior)
        assert torch.equal(draw.noise, torch.randn(1, *SHAPE))
        assert torch.equal(draw.timesteps, torch.randint(0, 1000, (1,)))


def test_every_epoch_has_its_own_order_of_all_images() -> None:
    first, second = shuffled(0, "unet", 50, 0), shuffled(0, "unet", 50, 1)
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second
    assert first == shuffled(0, "unet", 50, 0)


def test_seeds_fit_torchs_32_bits() -> None:
    assert len({seed_of("a", number) for number in range(1000)}) == 1000
    assert max(seed_of(number) for number in range(1000)) < 2**32

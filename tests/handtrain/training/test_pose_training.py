"""Training with poses, several gestures, a prior and the switches of Stage III, on the tiny base."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from handdata.errors import UserError
from handtrain.generation.generate import generate
from handtrain.generation.sampling import Sampler
from handtrain.method.batches import Order, batch_of
from handtrain.method.noise import seed_of
from handtrain.model.pipeline import Hand1000Pipeline
from handtrain.training import prior, validation
from handtrain.training.early_stopping import BEST_FILE
from tests.handtrain.tiny import write_dataset

Jobs = Callable[..., Any]
PLUS: dict[str, Any] = {
    "preset": "plus", "unet_batch": 4, "unet_samples": 24, "unet_warmup": 1, "unet_lr": 1e-3, "prior": 0.25,
    "prior_images": 3, "crop": "center", "min_snr": 0.05, "hand_weight": 2.0, "pose": "map,time,tokens",
}  # fmt: skip


def _weights(model: Path) -> dict[str, torch.Tensor]:
    unet = load_file(model / "unet" / "diffusion_pytorch_model.safetensors")
    pose = load_file(model / "pose.safetensors") if (model / "pose.safetensors").exists() else {}
    return {**unet, **{f"pose.{name}": tensor for name, tensor in pose.items()}}


def _same(first: Path, second: Path) -> bool:
    one, two = _weights(first), _weights(second)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture(scope="module")
def posed(train: Jobs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(train(tmp_path_factory.mktemp("posed") / "run", **PLUS).model)


@pytest.fixture
def two_gestures(tmp_path: Path) -> Path:
    folder = write_dataset(tmp_path / "two", train=4)
    card = (folder / "README.md").read_text()
    write_dataset(folder, train=2, gesture="ok")
    second = (folder / "README.md").read_text().split("configs:\n")[1].split("---")[0]
    (folder / "README.md").write_text(card.replace("---\n# A", f"{second}---\n# A"))
    return folder


def test_a_posed_model_is_format_2_with_a_bank_and_layers_of_its_own(posed: Path) -> None:
    about = json.loads((posed / "hand1000.json").read_text())
    assert about["format"] == 2
    assert about["pose"] == {"routes": ["map", "time", "tokens"]}
    assert len(about["gestures"]["call"]["poses"]) == 5  # every training image's own, since there are fewer than 8
    assert (posed / "hand1000.json").stat().st_size < 100_000
    assert {name.split(".")[0] for name in load_file(posed / "pose.safetensors")} == {
        "map", "no_time", "time", "tokens",
    }  # fmt: skip


def test_training_moves_the_unet_and_every_pose_layer(posed: Path, base: Path) -> None:
    before = load_file(base / "unet" / "diffusion_pytorch_model.safetensors")
    after = _weights(posed)
    assert all(not torch.equal(before[name], after[name]) for name in before)
    assert after["pose.map.2.weight"].abs().max() > 0
    assert after["pose.time.2.weight"].abs().max() > 0


def test_an_interrupted_run_ends_like_an_uninterrupted_one(train: Jobs, posed: Path, tmp_path: Path) -> None:
    import handtrain.training.loop as loop

    class Stop(Exception):
        pass

    plain, calls = loop.tuning_step, []

    def stopping(*arguments: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 4:
            raise Stop
        return plain(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "tuning_step", stopping)
        with pytest.raises(Stop):
            train(tmp_path / "run", **PLUS, checkpoint_minutes=0)
    resumed = train(tmp_path / "run", **PLUS, checkpoint_minutes=0)
    assert _same(resumed.model, posed)


def test_every_switch_changes_the_weights(train: Jobs, posed: Path, tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [
        {"pose": "map,time"}, {"pose_rate": 1.0}, {"pose_dropout": 0.9}, {"text_dropout": 0.9}, {"times": "early"},
        {"min_snr": 0.0}, {"ema": 0.0}, {"prior": 0.5}, {"unet_decay": "none"}, {"unet_clip": 0.01},
    ]  # fmt: skip
    for number, change in enumerate(changes):
        assert not _same(train(tmp_path / str(number), **{**PLUS, **change}).model, posed), change


@pytest.mark.parametrize("best", [2, 6])
def test_the_best_evaluation_is_of_the_mean_weights_and_has_the_pose_layers(
    train: Jobs, posed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, best: int
) -> None:
    def hand_metrics(images: list[np.ndarray], gesture: str, judge: Any) -> dict[str, float]:
        return {"hand_found": float(len(judge.scores) == best)}

    monkeypatch.setattr(validation, "hand_metrics", hand_metrics)
    judged = {"evaluate_every": 1, "evaluation_images": 1, "sample_steps": 1, "best_by": "hand_found", "keep": "best"}
    run = train(tmp_path / "run", **PLUS, **judged)
    stored, model = load_file(run.path / BEST_FILE), _weights(run.model)
    assert {name for name in stored if name.startswith("pose.")} == {name for name in model if name.startswith("pose.")}
    assert all(torch.equal(stored[name], weight) for name, weight in model.items() if name.startswith("pose."))
    assert _same(run.model, posed) == (best == 6), "the last evaluation is of the weights that a run ends with"


def test_several_gestures_are_one_model_with_balanced_batches(train: Jobs, two_gestures: Path, tmp_path: Path) -> None:
    run = train(tmp_path / "run", dataset=two_gestures, **{**PLUS, "gesture": ("all",), "prior": 0.0})
    about = json.loads((run.model / "hand1000.json").read_text())
    assert about["gesture"] is None
    assert list(about["gestures"]) == ["call", "ok"]
    steps = [line["image_ids"] for line in run.log if line.get("part") == "unet"]
    assert len(steps) == 6
    assert Hand1000Pipeline.from_pretrained(run.model, safety_checker=None).gesture is not None
    with pytest.raises(UserError, match="needs --gesture"):
        generate(run.model, out=tmp_path / "images", prompts=f"{two_gestures}:validation", device="cpu")


def test_several_gestures_need_lam_1(train: Jobs, two_gestures: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--lam 1"):
        train(tmp_path / "run", dataset=two_gestures, gesture=("call", "ok"), preset="smoke")


@pytest.mark.parametrize("batch", [1, 3, 4])
def test_the_order_of_one_gesture_is_that_of_earlier_versions(batch: int) -> None:
    order = Order((range(5),), batch, 15, 7, "unet")
    assert [order(step) for step in range(order.steps)] == [
        batch_of(step, 5, batch, 3, 7, "unet") for step in range(-(-15 // batch))
    ]


def test_pictures_of_the_prior_that_were_drawn_before_a_kill_are_kept(
    train: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tmp_path / "whole", **PLUS, cache=tmp_path / "one").model
    monkeypatch.setattr(prior, "PRIOR_AT_ONCE", 1)
    draw, drawn = Sampler.latents, []

    def killed_at_the_second(self: Sampler, texts: Any, seeds: list[int]) -> torch.Tensor:
        drawn.append(seeds)
        if len(drawn) == 2:
            raise KeyboardInterrupt
        return draw(self, texts, seeds)

    monkeypatch.setattr(Sampler, "latents", killed_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", **PLUS, cache=tmp_path / "two")
    resumed = train(tmp_path / "run", **PLUS, cache=tmp_path / "two").model
    assert len(drawn) == 4 and drawn[1] == drawn[2], "three pictures, of which the first was kept"
    first, second = _weights(whole), _weights(resumed)
    assert all(torch.allclose(first[name], second[name], atol=1e-4) for name in first)


def test_batches_have_as_many_of_each_gesture_and_the_share_of_the_prior() -> None:
    order = Order((range(10), range(10, 12), range(12, 15)), 8, 600, 0, "unet", range(15, 20), 2)
    assert order.steps == 100
    rows = [[row for row, _ in order(step)] for step in range(100)]
    assert all(
        [sum(row in group for row in of) for group in (*order.groups, order.prior)] == [2, 2, 2, 2] for of in rows
    )
    counts = np.bincount([row for of in rows for row in of], minlength=20)
    assert set(counts[:10]) == {20}
    assert set(counts[10:12]) == {100}
    assert len({pair for step in range(100) for pair in order(step)}) == 800  # an image's epochs differ


@pytest.mark.parametrize(("pose", "posed_images"), [("own", 4), ("none", 0), ("rows", 4), ("call", 4), ("FILE", 4)])
def test_generation_takes_poses_from_every_source(
    posed: Path, dataset: Path, tmp_path: Path, pose: str, posed_images: int
) -> None:
    if pose == "FILE":
        pose = str(tmp_path / "hand.json")
        landmarks = np.random.default_rng(0).random((21, 3)).tolist()
        Path(pose).write_text(json.dumps({"landmarks": landmarks, "left_hand": True}))
    arguments: dict[str, Any] = {"prompts": f"{dataset}:validation", "seeds": (0, 1), "device": "cpu", "steps": 2}
    out = generate(posed, out=tmp_path / "images", pose=pose, progress=False, **arguments)
    records = [json.loads(line) for line in (out / "generation.jsonl").read_text().splitlines()]
    assert sum("pose" in record for record in records) == posed_images
    again = generate(posed, out=out, pose=pose, progress=False, **arguments)
    assert len(json.loads((again / "generation.json").read_text())["sessions"]) == 1  # nothing was drawn again


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pose": "fist"}, "neither|not a file"),
        ({"pose": "missing.json"}, "missing.json"),
        ({"pose_guidance": -1.0}, "--pose-guidance"),
    ],
)
def test_a_pose_that_the_model_cannot_draw_is_one_sentence(
    posed: Path, dataset: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        generate(posed, out=tmp_path / "images", prompts=f"{dataset}:validation", device="cpu", **options)


def test_a_model_without_poses_refuses_them(model: Path, dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="trained with --pose"):
        generate(model, out=tmp_path / "images", prompts=f"{dataset}:validation", device="cpu", pose="rows")


def test_the_pipeline_saves_and_loads_the_pose_layers(posed: Path, tmp_path: Path) -> None:
    first = Hand1000Pipeline.from_pretrained(posed, safety_checker=None)
    first.save_pretrained(tmp_path / "saved")
    second = Hand1000Pipeline.from_pretrained(tmp_path / "saved", safety_checker=None)
    images = []
    for pipeline, poses in ((first, True), (second, True), (second, False)):
        loaded: Any = pipeline
        loaded.set_progress_bar_config(disable=True)
        pose = loaded.gesture.own_poses("call")[0] if poses else None
        generator = torch.Generator().manual_seed(0)
        size = {"height": 16, "width": 16, "num_inference_steps": 2, "output_type": "np"}
        images.append(loaded("a person", poses=pose, generator=generator, **size).images)
    assert np.array_equal(images[0], images[1])
    assert not np.array_equal(images[1], images[2])


def _draw(pipeline: Any, prompt: str | list[str], seeds: int | list[int], **more: Any) -> np.ndarray:
    pipeline.set_progress_bar_config(disable=True)
    several = seeds if isinstance(seeds, list) else [seeds]
    generators = [torch.Generator().manual_seed(seed) for seed in several]
    size = {"height": 16, "width": 16, "num_inference_steps": 2, "output_type": "np"}
    drawn: np.ndarray = pipeline(
        prompt, generator=generators if isinstance(seeds, list) else generators[0], **size, **more
    ).images
    return drawn


def test_the_pipeline_draws_a_gesture_of_the_prompt_with_one_of_its_own_poses(posed: Path) -> None:
    pipeline: Any = Hand1000Pipeline.from_pretrained(posed, safety_checker=None)
    own = pipeline.gesture.own_poses("call")
    named, free = f"a person {pipeline.gesture.about['gestures']['call']['phrase']}", "a person"
    chosen = [int(seed_of("pose", seed) % len(own)) for seed in range(8)]
    assert len(set(chosen)) > 2, "seeds choose among the poses"
    for seed in (0, 1, 2):
        assert np.array_equal(_draw(pipeline, named, seed), _draw(pipeline, named, seed, poses=own[chosen[seed]]))
        assert not np.array_equal(_draw(pipeline, named, seed), _draw(pipeline, named, seed, poses=None))
        assert np.array_equal(_draw(pipeline, free, seed), _draw(pipeline, free, seed, poses=None))
    mixed = _draw(pipeline, [free, named], [3, 1])
    nothing = torch.full((64,), torch.nan)
    assert np.array_equal(mixed, _draw(pipeline, [free, named], [3, 1], poses=torch.stack([nothing, own[chosen[1]]])))
    several = _draw(pipeline, named, 4, num_images_per_prompt=2)  # one generator: its seed, and the one behind it
    given = own[[seed_of("pose", seed) % len(own) for seed in (4, 5)]]
    assert np.array_equal(several, _draw(pipeline, named, 4, num_images_per_prompt=2, poses=given))


def test_without_a_generator_the_pose_follows_the_state_of_torchs_own(posed: Path) -> None:
    pipeline: Any = Hand1000Pipeline.from_pretrained(posed, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    size = {"height": 16, "width": 16, "num_inference_steps": 2, "output_type": "np"}
    named = f"a person {pipeline.gesture.about['gestures']['call']['phrase']}"
    poses: list[torch.Tensor] = []
    for _ in range(2):
        torch.manual_seed(0)
        for _ in range(6):
            poses.append(pipeline._own_poses((named,), {}))
            pipeline(named, **size)
    assert all(torch.equal(first, second) for first, second in zip(poses[:6], poses[6:], strict=True))
    assert len({tuple(pose.flatten().tolist()) for pose in poses}) > 1, "not the same one every time"


def test_the_command_and_the_pipeline_draw_the_same_image(posed: Path, tmp_path: Path) -> None:
    pipeline: Any = Hand1000Pipeline.from_pretrained(posed, safety_checker=None)
    prompt = f"a person {pipeline.gesture.about['gestures']['call']['phrase']}"
    generate(posed, out=tmp_path / "images", prompt=prompt, seeds=[5], device="cpu", steps=2)
    with Image.open(tmp_path / "images" / "image-s5.png") as drawn:
        difference = np.asarray(drawn, dtype=float) - 255 * _draw(pipeline, prompt, 5)[0]
    assert np.abs(difference).max() <= 1


def test_another_word_than_own_is_refused_and_models_without_poses_need_none(posed: Path, model: Path) -> None:
    pipeline: Any = Hand1000Pipeline.from_pretrained(posed, safety_checker=None)
    with pytest.raises(ValueError, match="'rows', they must be 'own'"):
        _draw(pipeline, "a person", 0, poses="rows")
    plain: Any = Hand1000Pipeline.from_pretrained(model, safety_checker=None)
    phrase = plain.gesture.about["gesture_phrase"]
    assert np.array_equal(_draw(plain, f"a person {phrase}", 0), _draw(plain, f"a person {phrase}", 0, poses=None))

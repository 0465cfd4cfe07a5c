import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from handdata.errors import UserError
from handtrain.cli.flags import Generate
from handtrain.generation import generate as generating
from handtrain.generation import pictures
from handtrain.generation.generate import ReferenceSchedule, generate, image_seed
from handtrain.generation.pictures import read_record
from handtrain.model.pipeline import Hand1000Pipeline
from handtrain.options import GenerateOptions
from tests.handtrain.launching import Launcher
from tests.handtrain.tiny import PHRASE

QUICK = GenerateOptions(steps=2)


def pixels(folder: Path) -> dict[str, np.ndarray]:
    return {file.name: np.asarray(Image.open(file)).astype(int) for file in sorted(folder.glob("*.png"))}


def prompts_file(folder: Path, count: int = 3) -> str:
    file = folder / "prompts.txt"
    file.write_text("".join(f"person {number} {PHRASE}\n\n" for number in range(count)))
    return str(file)


def make(model: Path, out: Path, **changes) -> Path:
    return generate(model, out=out, **{"options": QUICK, "device": "cpu", **changes})


def test_an_image_does_not_depend_on_its_batch(model, tmp_path):
    prompts = prompts_file(tmp_path)
    for batch in (1, 4):
        make(model, tmp_path / str(batch), prompts=prompts, seeds=(0, 7), batch=batch)
    one, other = pixels(tmp_path / "1"), pixels(tmp_path / "4")
    assert list(one) == list(other) == [f"{n:05d}-s{seed}.png" for n in range(3) for seed in (0, 7)]
    assert max(np.abs(one[name] - other[name]).max() for name in one) <= 1  # rounding to 8 bits
    assert len({one[name].tobytes() for name in one}) == 6


@pytest.mark.slow
def test_two_and_three_processes_make_the_images_of_one(model, tmp_path):
    prompts, launcher = prompts_file(tmp_path), Launcher(tmp_path)
    try:
        for count in (1, 2, 3):
            flags = ["generate", "--model", str(model), "--out", str(tmp_path / str(count)), "--prompts", prompts]
            flags += ["--seeds", "0", "7", "--steps", "2", "--batch", str(count), "--device", "cpu"]
            assert launcher(flags, count) == [0] * count, launcher.errors.read_text()
    finally:
        launcher.close()
    alone = pixels(tmp_path / "1")
    record = (tmp_path / "1" / "generation.jsonl").read_text()
    for count in ("2", "3"):
        shared = pixels(tmp_path / count)
        assert list(shared) == list(alone)
        assert max(np.abs(alone[name] - shared[name]).max() for name in alone) <= 1  # rounding to 8 bits
        assert (tmp_path / count / "generation.jsonl").read_text() == record


def test_a_killed_run_resumes_with_the_missing_images_and_ends_with_the_same_ones(model, tmp_path, monkeypatch):
    prompts, out = prompts_file(tmp_path), tmp_path / "out"
    make(model, out, prompts=prompts)
    before, times = pixels(out), {file.name: file.stat().st_mtime_ns for file in out.glob("*.png")}
    lines = (out / "generation.jsonl").read_text()
    (out / "00001-s0.png").write_bytes(b"half an image")
    (out / "generation.jsonl").unlink()
    make(model, out, prompts=prompts)
    after = pixels(out)
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert (out / "generation.jsonl").read_text() == lines
    kept = ("00000-s0.png", "00002-s0.png")
    assert all((out / name).stat().st_mtime_ns == times[name] for name in kept)
    monkeypatch.setattr(generating, "_generate", lambda *_: pytest.fail("nothing is missing"))
    assert make(model, out, prompts=prompts) == out


def test_another_prompt_under_the_same_name_replaces_the_image(model, tmp_path):
    make(model, tmp_path / "out", prompt="one")
    first = pixels(tmp_path / "out")["image-s0.png"]
    make(model, tmp_path / "out", prompt="two")
    assert not np.array_equal(first, pixels(tmp_path / "out")["image-s0.png"])
    assert read_record(tmp_path / "out" / "image-s0.png")["prompt"] == "two"


def test_a_folder_with_other_settings_is_refused_naming_the_difference(model, tmp_path):
    make(model, tmp_path / "out", prompt="one")
    with pytest.raises(UserError, match=r"guidance was 3\.0, is 5\.0"):
        make(model, tmp_path / "out", prompt="one", guidance=5.0)


def test_a_png_and_the_list_record_how_an_image_was_generated(model, tmp_path):
    out = tmp_path / "out"
    make(model, out, prompts=prompts_file(tmp_path, 1), negative_prompt="bad")
    info = Image.open(out / "00000-s0.png").info
    assert json.loads(info["hand1000"])["prompt"] == f"person 0 {PHRASE}"
    settings = json.loads(info["hand1000-settings"])
    assert (settings["mu"], settings["lam"], settings["steps"], settings["negative_prompt"]) == (0.7, 0.7, 2, "bad")
    assert info["parameters"].startswith(f"person 0 {PHRASE}\nNegative prompt: bad\nSteps: 2, Sampler: DDIM")
    line = json.loads((out / "generation.jsonl").read_text())
    assert line["file"] == "00000-s0.png" and line["black"] is False
    folder = json.loads((out / "generation.json").read_text())
    assert (folder["images"], folder["black"], folder["safety_checker"]) == (1, 0, False)


def test_base_and_tuned_begin_from_the_same_noise_and_mu_1_leaves_the_gesture_out(base, model, tmp_path):
    prompts = prompts_file(tmp_path, 1)
    make(base, tmp_path / "base", prompts=prompts)
    make(model, tmp_path / "tuned", prompts=prompts)
    make(model, tmp_path / "plain", prompts=prompts, mu=1.0)
    records = [read_record(tmp_path / name / "00000-s0.png") for name in ("base", "tuned")]
    assert records[0] == records[1]
    tuned, plain = (pixels(tmp_path / name)["00000-s0.png"] for name in ("tuned", "plain"))
    assert not np.array_equal(tuned, plain)


def test_prompts_come_from_a_dataset_with_the_models_own_gesture(model, dataset, tmp_path):
    make(model, tmp_path / "out", prompts=f"{dataset}:validation", limit=1)
    record = read_record(tmp_path / "out" / "validation-000-s0.png")
    assert record["prompt"] == f"a person {PHRASE} number 0"


def test_black_images_are_counted(model, tmp_path, monkeypatch, capsys):
    save = pictures.save
    monkeypatch.setattr(pictures, "save", lambda file, image, *rest: save(file, Image.new("RGB", image.size), *rest))
    assert Generate(str(model), tmp_path / "out", prompt="one", options=QUICK, device="cpu")() == 0
    assert "1 images, 1 of them black" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "generation.json").read_text())["black"] == 1


def test_the_reference_sampler_takes_the_released_codes_46_times():
    schedule = ReferenceSchedule(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False
    )
    schedule.set_timesteps(46)
    assert schedule.timesteps.tolist() == list(range(991, 0, -22))
    assert len(schedule.timesteps) == 46
    # an epsilon that is the noise itself leads back to the image, along the released code's own alphas
    clean, noise = torch.ones(1, 1, 2, 2) * 0.3, torch.randn(1, 1, 2, 2)
    times, sample = schedule.timesteps, schedule.add_noise(clean, noise, schedule.timesteps[:1])
    for index, t in enumerate(times):
        sample = schedule.step(noise, t, sample).prev_sample
        alpha = schedule.alphas_cumprod[times[index + 1] if index < 45 else 0]
        assert torch.allclose(sample, alpha**0.5 * clean + (1 - alpha) ** 0.5 * noise, atol=1e-4)


def test_the_reference_sampler_gives_every_prompt_the_seeds_own_noise():
    assert image_seed(0, "00001", "reference") == image_seed(0, "00002", "reference") == 0
    assert image_seed(0, "00001", "ddim") != image_seed(0, "00002", "ddim")
    assert image_seed(5, None, "ddim") == 5  # a single prompt: the seed that any other program would take


def test_the_reference_sampler_runs(model, tmp_path):
    make(model, tmp_path / "out", prompt="one", sampler="reference")
    assert json.loads((tmp_path / "out" / "generation.json").read_text())["steps"] == 46


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "either --prompt or --prompts"),
        ({"prompt": "a", "prompts": "b"}, "either --prompt or --prompts"),
        ({"prompts": "missing.txt"}, "is not a file"),
        ({"prompt": "a", "seeds": ()}, "--seeds is empty"),
        ({"prompt": "a", "mu": 2.0}, "--mu 2.0 must be at most 1"),
        ({"prompt": "a", "steps": 0}, "at least 1"),
        ({"prompt": "a", "resolution": 17}, "a multiple of"),
    ],
)
def test_mistakes_are_one_sentence(model, changes, sentence, tmp_path):
    with pytest.raises(UserError, match=sentence):
        make(model, tmp_path / "out", **changes)


def test_a_plain_base_has_no_gesture_to_mix_in(base, dataset, tmp_path):
    with pytest.raises(UserError, match="leave it out"):
        make(base, tmp_path / "out", prompt="a", mu=0.5)
    with pytest.raises(UserError, match="needs --gesture"):
        make(base, tmp_path / "out", prompts=f"{dataset}:validation")


def test_a_dry_run_prints_its_size_and_writes_nothing(model, tmp_path, capsys):
    flags = {"prompts": prompts_file(tmp_path), "options": QUICK, "device": "cpu", "dry_run": True}
    assert Generate(str(model), tmp_path / "out", **flags)() == 0
    assert capsys.readouterr().out.startswith("3 images of 16 px, 2 steps each")
    assert not (tmp_path / "out").exists()


def test_an_automatic_batch_is_halved_until_it_fits(model, tmp_path, monkeypatch):
    prompts, real, sizes = prompts_file(tmp_path, 5), Hand1000Pipeline.__call__, []

    def small_card(self, **arguments):
        sizes.append(len(arguments["prompt_embeds"]))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, **arguments)

    make(model, tmp_path / "two", prompts=prompts, batch=2)
    monkeypatch.setattr(Hand1000Pipeline, "__call__", small_card)
    make(model, tmp_path / "auto", prompts=prompts)
    assert sizes == [4, 2, 2, 1]
    two, auto = pixels(tmp_path / "two"), pixels(tmp_path / "auto")
    assert list(two) == list(auto)
    assert all(np.array_equal(two[name], auto[name]) for name in two)
    with pytest.raises(torch.OutOfMemoryError):
        make(model, tmp_path / "fixed", prompts=prompts, batch=4)


def test_precision_auto_is_float32_on_a_cpu_and_recorded(model, tmp_path, monkeypatch):
    make(model, tmp_path / "images", prompts=prompts_file(tmp_path, 1))
    settings = json.loads((tmp_path / "images" / "generation.json").read_text())
    assert settings["precision"] == "fp32"
    for supported, expected in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, answer=supported: answer)
        assert generating.number_format(GenerateOptions(), torch.device("cuda")) == expected


def test_an_error_while_a_picture_is_written_ends_the_generation(model, tmp_path, monkeypatch):
    def full(file, *_):
        raise OSError(28, "No space left on device", str(file))

    monkeypatch.setattr(pictures, "save", full)
    with pytest.raises(OSError, match="No space left"):
        make(model, tmp_path / "images", prompts=prompts_file(tmp_path, 1))

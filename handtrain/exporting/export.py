"""`handtrain export`: one model in the format that another program reads."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch

from handdata.errors import UserError
from handdata.files import require_writable_folder
from handdata.huggingface import parse_model
from handdata.machine import choose_device
from handtrain.exporting.factors import approximate, merged
from handtrain.exporting.pickles import convert_file, convert_folder, is_pickled
from handtrain.exporting.pictures import pixel_difference
from handtrain.exporting.single_file import write_single_file
from handtrain.model.about import require_whole
from handtrain.model.base import Base, open_base, report_left_out
from handtrain.model.export import convert
from handtrain.model.formats.adapters import read_adapters
from handtrain.model.formats.header import left_out, metadata_of, phrases_of
from handtrain.model.formats.lora import Factors, Format, Layers, write_lora
from handtrain.model.gesture_file import ABOUT_FILE

Precision: TypeAlias = Literal["fp32", "fp16"]
Target: TypeAlias = Literal["diffusers", "fp16", "single-file", "lora"]

Form: TypeAlias = tuple[Format, Precision]

_IMAGES = 4
_RANK = 32  # python -m benchmarks.lora_ranks measures what ranks keep
_FILES = ("single-file", "lora")


@dataclass(frozen=True)
class Exported:
    """The new file or folder, with remarks for the user."""

    path: Path
    remarks: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join([str(self.path), *self.remarks])


def export(
    model: str | Path, *, to: Target, out: str | Path, base: str | Path | None = None, rank: int | None = None,
    layers: Layers | None = None, lora_format: Format | None = None, lora_precision: Precision | None = None,
    images: int | None = None, device: str | None = None, prediction_type: str | None = None,
) -> Exported:  # fmt: skip
    """Write a trained model or a base in another format to `out`, a new folder, or a new file for the last two formats.

    `diffusers` and `fp16` are folders in float32 and float16, `single-file` has the original names, `lora` the change
    of the UNet alone: the adapters of a LoRA run, else the difference to `base` (default: the one on the Hub that
    hand1000.json names), factored to a `rank` (32) for `layers` (all) and compared with the full model in `images` (4)
    pictures on a `device` (auto); its numbers are stored in `lora_precision` (fp32). `prediction_type` is for a file of
    weights that does not state it. Raises `UserError` for a mistake.
    """
    out = Path(out)
    _require_new(out, to)
    of_lora = {"--rank": rank, "--layers": layers, "--lora-format": lora_format, "--images": images,
               "--lora-precision": lora_precision, "--base": base, "--device": device}  # fmt: skip
    if to != "lora" and (given := next((name for name, value in of_lora.items() if value is not None), None)):
        raise UserError(f"{given} is for --to lora: leave it out")
    if rank is not None and rank < 1:
        raise UserError(f"--rank {rank} must be at least 1")
    if is_pickled(Path(model)):
        return _unpickled(Path(model), to, out)
    opened = open_base(parse_model(str(model), "MODEL"), "MODEL", None if to == "lora" else prediction_type)
    trained = not opened.single_file and (opened.folder / ABOUT_FILE).exists()
    about = require_whole(opened.folder, "MODEL") if trained else {}
    if opened.backbone.TRAINED != "unet" and (to == "single-file" or lora_format == "kohya"):
        given = "--to single-file" if to == "single-file" else "--lora-format kohya"
        raise UserError(f"{given} has the names of a UNet, and MODEL {model} has none: use diffusers")
    if to == "lora":
        if not about:
            raise UserError(f"MODEL {model} was not trained by handtrain: a LoRA is the change of a trained model")
        form, chosen = (lora_format or "diffusers", lora_precision or "fp32"), choose_device(device or "auto")
        if "adapters_sha256" in about and rank is None and layers is None:
            return _trained_adapters(opened, about, out, form)
        before = _base_of(about, base, prediction_type)
        rank, images = _RANK if rank is None else rank, _IMAGES if images is None else images
        return _factored(opened, about, out, form, before, rank, layers or "all", images, chosen)
    if to == "single-file":
        write_single_file(out, opened, about)
        return Exported(out, tuple(left_out(about)))
    report_left_out(opened, True)
    convert(out, opened, about, torch.float16 if to == "fp16" else torch.float32)
    return Exported(out)


def _unpickled(model: Path, to: Target, out: Path) -> Exported:
    """Convert a pickle without reading it as a model: the converted one is checked when it is used."""
    wanted = "single-file" if model.is_file() else "diffusers"
    if to != wanted:
        raise UserError(f"MODEL {model} has pickled weights: convert it first with --to {wanted}")
    (convert_file if model.is_file() else convert_folder)(model, out)
    return Exported(out)


def _trained_adapters(opened: Base, about: dict[str, Any], out: Path, form: Form) -> Exported:
    adapters = read_adapters(opened.folder, about, opened.backbone.TRAINED)
    _write(opened, about, out, form, adapters)
    rank = len(next(iter(adapters.values()))[0])
    remark = f"the adapters of the run, rank {rank} on {len(adapters)} layers"
    return Exported(out, (remark, *_notes(opened, about, form)))


def _factored(
    opened: Base, about: dict[str, Any], out: Path, form: Form, base: Base, rank: int, layers: Layers, images: int,
    device: torch.device,
) -> Exported:  # fmt: skip
    """Write the factors of a model's difference to its base, and compare both in pictures."""
    tuned, before = opened.denoiser(), base.denoiser()
    if {n: t.shape for n, t in tuned.state_dict().items()} != {n: t.shape for n, t in before.state_dict().items()}:
        raise UserError(f"--base {base.path} has another UNet than the model: name the base that it was trained from")
    found = approximate(tuned, before, rank, layers)
    _write(opened, about, out, form, found.factors)
    remarks = [
        f"rank {rank} on {len(found.factors)} layers keeps {found.kept_of_layers:.1%} of the energy of their change, "
        f"{found.kept_of_all:.1%} of that of all weights"
    ]
    if images:
        both = (tuned, merged(before, found.factors))
        phrases, size = phrases_of(about), about["resolution"]
        difference = pixel_difference(opened, both, phrases, images, size, device)
        remarks.append(f"{images} pictures differ from the full model's by {difference:.2f} of 255 in the mean")
    return Exported(out, (*remarks, *_notes(opened, about, form)))


def _write(opened: Base, about: dict[str, Any], out: Path, form: Form, factors: Factors) -> None:
    metadata = metadata_of(about, opened.configs, out.stem, about["resolution"], adapters=True)
    if form[1] == "fp16":
        factors = {name: (down.half(), up.half()) for name, (down, up) in factors.items()}
    trained = opened.backbone.TRAINED
    write_lora(out, factors, form[0], trained, opened.configs[trained], metadata)


def _notes(opened: Base, about: dict[str, Any], form: Form) -> list[str]:
    notes = [f"Name the gesture in the prompt: {', '.join(phrases_of(about))}.", *left_out(about)]
    if form[0] == "diffusers" and opened.backbone.TRAINED == "unet":
        notes.append("ComfyUI and A1111 read the names of --lora-format kohya.")
    return notes


def _base_of(about: dict[str, Any], base: str | Path | None, prediction_type: str | None) -> Base:
    """Return the base of a trained model. Raises `UserError` if it is not known, or `base` is another one."""
    record = about.get("training", {}).get("base", {})
    place = str(record.get("place", ""))
    if base is None:
        if not place.startswith("hf:"):
            raise UserError(f"--to lora needs the base of the model ({place or 'unknown'}): give --base")
        base = f"{place}@{record['revision']}" if record.get("revision") else place
    opened = open_base(parse_model(str(base), "--base"), "--base", prediction_type)
    if "fingerprint" in record and record["fingerprint"] != opened.fingerprint():
        raise UserError(f"--base {base} is not the base that the model was trained from ({place})")
    return opened


def _require_new(out: Path, to: Target) -> None:
    """Raise `UserError` unless `out` can be written and nothing is there: a folder of the user may have its name."""
    if to in _FILES and out.suffix != ".safetensors":
        raise UserError(f"--out {out} must end with .safetensors for --to {to}")
    if out.exists() and not (out.is_dir() and to not in _FILES and not any(out.iterdir())):
        raise UserError(f"--out {out} exists already: remove it, or choose another place")
    require_writable_folder(out.parent, "--out")

"""How much of a fine-tuning a LoRA of each rank keeps: gesture accuracy of the factored model against the full one.

    python -m benchmarks.lora_ranks --model quickstart/palm/model --base mini-stable-diffusion \
        --dataset quickstart/dataset --out runs/lora-ranks

For each rank and choice of layers the UNet's change is factored as `handtrain export --to lora` does, added to the base
again, and put in the place of the model's UNet. Every variant draws the same prompts from the same noise, with the
gesture feature of the model (`--mu 1` leaves it out, as other programs do), and `handtrain evaluate` compares the
pictures with those of the base. The same command resumes; it prints a Markdown table and writes it to OUT/table.md.
"""

import argparse
import shutil
from pathlib import Path
from typing import Any

from handdata.files import sha256_by_path, whole_folder, write_json, write_text
from handdata.huggingface import parse_model
from handdata.markdown import markdown_table
from handdata.readers import read_json, require_json
from handtrain.evaluation.evaluate import evaluate
from handtrain.exporting.factors import approximate, merged
from handtrain.generation.generate import generate
from handtrain.model.base import Base, open_base
from handtrain.model.gesture_file import ABOUT_FILE
from handtrain.seals import SEAL, sealed

RANKS, LAYERS = (8, 16, 32, 64), ("attention", "all")
METRIC = "gesture accuracy"


def factored_model(folder: Path, tuned: Base, before: Base, rank: int, layers: Any) -> dict[str, float]:
    """Write a copy of a model whose UNet is the base with the factors; return the energy that they keep."""
    kept = folder.with_suffix(".json")
    if not kept.is_file() or not folder.is_dir():
        unet = before.denoiser()
        found = approximate(tuned.denoiser(), unet, rank, layers)
        with whole_folder(folder) as partial:
            shutil.copytree(tuned.folder, partial, dirs_exist_ok=True)
            merged(unet, found.factors).save_pretrained(partial / "unet")
            about = {k: v for k, v in require_json(partial / ABOUT_FILE).items() if k not in ("files", SEAL)}
            (partial / ABOUT_FILE).unlink()
            write_json(partial / ABOUT_FILE, sealed({**about, "files": sha256_by_path(partial)}), indent=2)
        numbers = sum(down.numel() + up.numel() for down, up in found.factors.values())
        write_json(kept, {"layers": found.kept_of_layers, "all": found.kept_of_all, "numbers": numbers})
    record: dict[str, float] = require_json(kept)
    return record


def scores(given: argparse.Namespace, model: Path | str, name: str, base_images: Path | None) -> tuple[Path, float]:
    """Return the pictures of a model and their gesture accuracy."""
    images, file = given.out / "images" / name, given.out / f"{name}-evaluation.json"
    mu, rows = None if base_images is None else given.mu, f"{given.dataset}:{given.split}"
    generate(
        model, out=images, prompts=rows, gesture=given.gesture, seeds=given.seeds, limit=given.limit,
        steps=given.steps, batch=25, device=given.device, guidance=given.guidance, mu=mu,
    )  # fmt: skip
    if not file.is_file():
        evaluate(
            real=rows, fake=images, base=base_images, gesture=given.gesture, landmarks=given.dataset,
            clip="none", variants="standard", device=given.device,
        ).write(file)  # fmt: skip
    record = require_json(file)["metrics"][METRIC]["standard"]
    return images, float(record["fake"]["value"])


def table(given: argparse.Namespace) -> str:
    """Return the table of all variants."""
    tuned, before = (open_base(parse_model(str(place), "--model")) for place in (given.model, given.base))
    given.gesture = (read_json(tuned.folder / ABOUT_FILE) or {})["gesture"]
    base_images, start = scores(given, given.base, "base", None)
    _, full = scores(given, tuned.folder, "full", base_images)
    ends = (("base", start, "0 %"), ("full", full, "100 %"))
    rows: list[tuple[str, ...]] = [(name, "", "", "", f"{value:.1%}", share) for name, value, share in ends]
    for layers in LAYERS:
        for rank in given.ranks:
            name = f"{layers}-{rank}"
            kept = factored_model(given.out / name, tuned, before, rank, layers)
            _, reached = scores(given, given.out / name, name, base_images)
            gain = f"{(reached - start) / (full - start):.0%}" if full != start else "none to keep"
            size = f"{kept['numbers'] / 1e6:.2f}"
            rows.append((layers, str(rank), size, f"{kept['all']:.1%}", f"{reached:.1%}", gain.replace("%", " %")))
    heads = ["layers", "rank", "million numbers", "energy kept", METRIC, "share of the gain"]
    return markdown_table(heads, rows)


def flags() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="model folder of a full run of one gesture")
    parser.add_argument("--base", required=True, help="the base that it was trained from")
    parser.add_argument("--dataset", required=True, help="dataset with the prompts")
    parser.add_argument("--split", default="test", help="split whose texts are the prompts")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--ranks", type=int, nargs="+", default=list(RANKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(14)))
    parser.add_argument("--limit", type=int, default=0, help="number of prompts; 0: all")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--mu", type=float, help="share of the text embedding; default: the model's lam")
    parser.add_argument("--device", default="auto")
    return parser


def main() -> None:
    """Print the table."""
    given = flags().parse_args()
    text = table(given)
    write_text(given.out / "table.md", text + "\n")
    print(text)


if __name__ == "__main__":
    main()

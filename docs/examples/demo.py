"""Draw hands with the mini Stable Diffusion, with and without its LoRA for open palms, and judge both.

    python docs/examples/demo.py --out demo

The LoRA is a file for plain diffusers: `models/mini-palm-lora.safetensors`, made by `handtrain export`. Both sets of
pictures have the same prompts and the same noise, and none is left out.
"""

import argparse
import html
import time
import webbrowser
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline

import handtrain
from handdata.shipped import resource

BASE, LORA = "models/mini-stable-diffusion", "models/mini-palm-lora.safetensors"
PHRASE = ", making open palm hand gesture"
SKINS, PLACES = ("light", "tan", "brown", "dark"), ("on the left", "in the middle", "on the right")
SLEEVES = ("blue", "pink", "white", "black", "yellow", "purple", "green", "orange")
WALLS = ("plain grey", "green brick", "blue checked", "plain yellow", "pink striped", "plain beige", "purple", "red")
SIDE = 128  # px of a picture on the page

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>hand1000: demo</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>:root {{color-scheme: light dark}} body {{font: 16px/1.5 system-ui, sans-serif; max-width: 68rem;
margin: 2rem auto; padding: 0 1rem}} table {{border-collapse: collapse}}
td, th {{padding: .2rem 1rem .2rem 0; text-align: left}}
figure {{display: inline-block; margin: 0 .4rem .8rem 0}} figure img {{display: block; width: {side}px; max-width: 42vw;
image-rendering: auto}} figcaption {{font-size: 12px}}</style>
<h1>Open palms, before and after</h1>
<p>{count} prompts, one picture of each model with the same noise, none left out. Above the mini Stable Diffusion, below
the same with its LoRA. Example: <q>{prompt}</q>.</p>
<table><tr><th></th>{heads}</tr>{rows}</table>
<p>95 % intervals. <a href="judge.html">The judge's page</a> shows how every hand was judged.</p>
{pictures}</html>
"""
MEASURES = {"hand-found rate": "hand found", "p_wrong per image": "p_wrong (experimental, lower is better)"}


def prompts(count: int) -> list[str]:
    """Return prompts in the words that the mini model knows, all different for up to 24."""
    return [
        f"a hand with {SKINS[n % 4]} skin and a {SLEEVES[n % 8]} sleeve {PLACES[n % 3]} in front of a "
        f"{WALLS[(n + n // 8) % 8]} wall{PHRASE}"
        for n in range(count)
    ]


def draw(pipeline: StableDiffusionPipeline, folder: Path, count: int, steps: int) -> None:
    """Draw a picture of every prompt; its number is its seed."""
    folder.mkdir(parents=True, exist_ok=True)
    pipeline.set_progress_bar_config(desc=f"{count} pictures, {folder.name}")
    noise = [torch.Generator().manual_seed(number) for number in range(count)]
    images = pipeline(prompts(count), generator=noise, num_inference_steps=steps, guidance_scale=3.0).images
    for number, image in enumerate(images):
        image.save(folder / f"{number:02}.png")


def page(folder: Path, judged: Any, count: int) -> Path:
    """Write a page with both sets of pictures, the recognised palms and the judge's two main measures."""
    rows = ""
    for summary in sorted(judged.summaries, key=lambda summary: summary["folder"]):
        cells = [summary["measures"][name] for name in MEASURES]
        text = "".join(f"<td>{cell['value']:.2f} ({cell['low']:.2f} to {cell['high']:.2f})</td>" for cell in cells)
        palms = f"<td>{summary['gestures'].get('palm', 0)} of {count}</td>"
        rows += f"<tr><th>{Path(summary['folder']).name}</th>{palms}{text}</tr>"
    pictures = "".join(
        f'<figure><img src="base/{n:02}.png" alt="base"><img src="tuned/{n:02}.png" alt="tuned"></figure>'
        for n in range(count)
    )
    heads = "".join(f"<th>{name}</th>" for name in ("open palms", *MEASURES.values()))
    example = html.escape(prompts(1)[0])
    text = PAGE.format(side=SIDE, count=count, prompt=example, heads=heads, rows=rows, pictures=pictures)
    (folder / "index.html").write_text(text, encoding="utf-8")
    return folder / "index.html"


def main() -> None:
    """Draw, judge, and show the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder of the pictures and pages")
    parser.add_argument("--count", type=int, default=24, help="number of prompts, at most 24")
    parser.add_argument("--steps", type=int, default=20, help="number of DDIM steps")
    parser.add_argument("--open", action="store_true", help="show the page in the browser")
    flags = parser.parse_args()
    started = time.monotonic()

    pipeline = StableDiffusionPipeline.from_pretrained(resource(BASE), dtype=torch.float32, safety_checker=None)
    draw(pipeline, flags.out / "base", flags.count, flags.steps)
    pipeline.load_lora_weights(resource(LORA))
    draw(pipeline, flags.out / "tuned", flags.count, flags.steps)
    print(f"{2 * flags.count} pictures after {time.monotonic() - started:.0f} s")

    judged = handtrain.judge([flags.out / "base", flags.out / "tuned"], out=flags.out / "judge.html")
    print(judged)
    shown = page(flags.out, judged, flags.count).resolve()
    print(f"{time.monotonic() - started:.0f} s. Open {shown.as_uri()}")
    if flags.open:
        webbrowser.open(shown.as_uri())


if __name__ == "__main__":
    main()

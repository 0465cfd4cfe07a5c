"""The model card, generated from hand1000.json."""

from typing import Any

from handdata.markdown import markdown_table
from handtrain.method.unet import TARGETS

_OPENRAIL = "https://huggingface.co/spaces/CompVis/stable-diffusion-license"
# by the class of the pipeline: a name for titles, our class, the licence's identifier, name and place
_RAIL = ("creativeml-openrail-m", "CreativeML OpenRAIL-M", _OPENRAIL)
_RAIL_XL = (
    "openrail++", "CreativeML OpenRAIL++-M",
    "https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0/blob/main/LICENSE.md",
)  # fmt: skip
_APACHE = ("apache-2.0", "Apache License 2.0", "https://www.apache.org/licenses/LICENSE-2.0")
_KINDS = {
    "StableDiffusionPipeline": ("Stable Diffusion", "Hand1000Pipeline", *_RAIL),
    "StableDiffusionXLPipeline": ("Stable Diffusion XL", "Hand1000XLPipeline", *_RAIL_XL),
    "ZImagePipeline": ("Z-Image", "", *_APACHE),  # diffusers' own pipeline draws all that was trained
}
_HAGRID = "https://github.com/hukenovs/hagrid"


def model_card(about: dict[str, Any], metrics: str = "", kind: str = "StableDiffusionPipeline") -> str:
    """Return the README.md of a model folder from its hand1000.json, with a Markdown table of metrics if given.

    `kind` is the class of the pipeline in diffusers.
    """
    training = about.get("training", {})
    sections = [
        _head(about, training, kind), _use(about, kind), _training(about, training, kind), _metrics(metrics),
        _terms(training, kind),
    ]  # fmt: skip
    return _metadata(training, kind) + "\n\n".join(section for section in sections if section) + "\n"


def _metadata(training: dict[str, Any], kind: str) -> str:
    lines = ["---", f"license: {_KINDS[kind][2]}", "library_name: diffusers", "pipeline_tag: text-to-image"]
    for key, part in (("base_model", "base"), ("datasets", "dataset")):
        place = training.get(part, {}).get("place", "")
        if place.startswith("hf:"):
            lines += [f"{key}:", f"- {place[3:]}"]
    family = "z-image" if kind == "ZImagePipeline" else "stable-diffusion"
    return "\n".join([*lines, "tags:", f"- {family}", "- hands", "- hand1000", "---", "", ""])


def _head(about: dict[str, Any], training: dict[str, Any], kind: str) -> str:
    names = _names(about)
    title = f"# {_KINDS[kind][0]} for the hand gesture{'' if about['gesture'] else 's'} “{names}”"
    if training.get("llama3"):
        title += "\n\nBuilt with Meta Llama 3: it wrote training texts of this model."
    base = _named(training.get("base", {}))
    base = base[0].upper() + base[1:]
    method = "the three stages of Hand1000 (arXiv 2408.15461)"
    return f"{title}\n\n{base}, fine-tuned on photographs of the gesture with {method}."


def _names(about: dict[str, Any]) -> str:
    return str(about["gesture"] or ", ".join(about["gestures"]))


def _use(about: dict[str, Any], kind: str) -> str:
    phrase, lam, ours = about["gesture_phrase"], about["lam"], _KINDS[kind][1]
    if not ours:
        return _use_plainly(about, kind)
    if about.get("gestures"):
        return _use_of_poses(about, ours)
    return f"""## Use

```python
from handtrain import {ours}

pipeline = {ours}.from_pretrained("THIS MODEL")
image = pipeline("a woman {phrase}", guidance_scale=3.0).images[0]
```

Name the gesture in the prompt as in the training texts: `{phrase}`. `mu` (0 to 1, here {lam} by default) is the
share of the plain text embedding; at 1 the gesture feature is left out.

Without our package, diffusers can load `pipeline.py` of this folder through `custom_pipeline`; that runs code from
this folder and therefore needs `trust_remote_code=True`. Read the file first; our own code never passes that. The
folder also loads as a plain `{kind}`, with the tuned UNet and without the gesture feature."""


def _use_plainly(about: dict[str, Any], kind: str) -> str:
    phrases = [entry["phrase"] for entry in about.get("gestures", {}).values()] or [about["gesture_phrase"]]
    return f"""## Use

```python
from diffusers import {kind}

pipeline = {kind}.from_pretrained("THIS MODEL")
image = pipeline("a woman {phrases[0]}", guidance_scale=2.0).images[0]
```

Name the gesture in the prompt as in the training texts: {", ".join(f"`{phrase}`" for phrase in phrases)}.
`guidance_scale` of this pipeline counts from 0: 2 is what `handtrain generate --guidance 3` uses."""


def _use_of_poses(about: dict[str, Any], ours: str) -> str:
    name, entry = next(iter(about["gestures"].items()))
    phrases = "\n".join(f"- {name}: `{entry['phrase']}`" for name, entry in about["gestures"].items())
    guidance = 2.0 if about.get("pose") else 3.0
    poses = f"""

Each image gets one of the gesture's own poses, by the seed of its generator; `pipeline.gesture.own_poses("{name}")`
returns them all. Others are given as `poses=`, 64 numbers for each image: 21 joints (x, y, z) in sides of the square
image, then 1 for a left hand or -1 for a right one. `poses=None` leaves the pose open. `pose_guidance` is the scale of
guidance by poses."""
    return f"""## Use

```python
from handtrain import {ours}

pipeline = {ours}.from_pretrained("THIS MODEL")
image = pipeline("a woman {entry["phrase"]}", guidance_scale={guidance}).images[0]
```

Name a gesture in the prompt as in the training texts:

{phrases}{poses if about.get("pose") else ""}"""


def _training(about: dict[str, Any], training: dict[str, Any], kind: str) -> str:
    if "imported" in training:
        source = f"The UNet comes from the checkpoint `{training['imported']}`; its training is unknown."
        return f"## Training\n\n{source}"
    options = training["options"]
    feature, fusion = about["feature"]["kind"], about["fusion"]["kind"]
    rows = [
        ("dataset", f"{_named(training['dataset'])}, configuration `{_names(about)}`, split `train`"),
        ("images", f"{training['images']}, {training['without_hand']} of them without landmarks in Stage I"),
        ("base", _named(training["base"])),
        ("preset", training["preset"]),
        ("resolution, crop", f"{about['resolution']} px, {about['crop']}"),
        ("gesture feature, fusion, lam", f"{feature}, {fusion}, {about['lam']}"),
        ("Stage II", f"{options['embedding_steps']} steps per image, Adam, rate {options['embedding_lr']:g}"),
        (
            "Stage III",
            f"{options['unet_epochs']} epochs, batch {options['unet_batch']}, Adam, rate {options['unet_lr']:g}",
        ),
        ("precision", str(options.get("precision", "fp32"))),
        ("trained weights", _trained(options, "transformer" if kind == "ZImagePipeline" else "UNet")),
        ("order", "all of Stage II before Stage III" if options["order"] == "stages" else "image after image"),
        ("seed", str(options["seed"])),
        ("versions", ", ".join(f"{name} {version}" for name, version in training["versions"].items())),
    ]
    return "## Training\n\n" + markdown_table(["", ""], rows)


def _trained(options: dict[str, Any], network: str) -> str:
    rank = options.get("lora_rank", 0)
    if not rank:
        return f"all weights of the {network}"
    return f"LoRA adapters of rank {rank} on {', '.join(TARGETS)} of every attention, merged into the {network}"


def _metrics(metrics: str) -> str:
    return f"## Metrics\n\n{metrics}" if metrics else ""


def _terms(training: dict[str, Any], kind: str) -> str:
    name, _, _, licence, place = _KINDS[kind]
    restrictions = (
        " Anyone who uses or redistributes this model is bound by the use restrictions of its attachment A (nothing "
        "unlawful, nothing that harms or defames people, exploits minors, spreads disinformation or decides over "
        "people's rights), and must pass on the same restrictions."
    )
    derived = name if kind == "ZImagePipeline" else "Stable Diffusion"
    lines = [
        "## Terms",
        "",
        f"- The weights derive from {derived} and stay under the [{licence}]({place})."
        f"{'' if kind == 'ZImagePipeline' else restrictions}",
        f"- The photographs are from [HaGRID]({_HAGRID}) by Kapitanov et al., under its own public licence: "
        "attribution and share-alike. The people in them have granted no publicity or privacy rights: do not try to "
        "identify anyone.",
    ]
    if training.get("llama3"):
        lines.append(
            "- Texts were written with Meta Llama 3, so the Meta Llama 3 Community License requires that the name of a "
            "model trained on them begins with “Llama 3”, and its acceptable use policy applies."
        )
    lines.append("- A base model's errors and biases remain; gestures other than the trained one can get worse.")
    return "\n".join(lines)


def _named(source: dict[str, Any]) -> str:
    place, revision = source.get("place", "a model"), source.get("revision")
    if place.startswith("hf:"):
        name = place[3:]
        return f"`{name}`" + (f" at commit `{revision}`" if revision else "")
    kind = "file" if place.endswith(".safetensors") else "folder"
    return f"a local {kind} `{place}` (sha256 {str(source['fingerprint'])[:16]}…)" if "fingerprint" in source else place

"""Which models and prompt made the columns of a dataset, with revisions and licences, from the stages' fingerprints."""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from handdata.recipe import Recipe

# what the card must say of a model's own licence, by a part of its name
_LICENCES = {
    "llama-3": ("Llama 3 Community License", "Texts: **Built with Meta Llama 3**. Meta Llama 3 is licensed under the Meta"
                " Llama 3 Community License, Copyright © Meta Platforms, Inc. All Rights Reserved."),
    "blip-image-captioning": ("BSD-3-Clause", "Captions: BLIP by Salesforce, BSD-3-Clause."),
    "blip2": ("MIT; its OPT under Meta's own", "Captions: BLIP-2 by Salesforce; its OPT language model is under Meta's"
              " OPT-175B licence, for research only."),
    "paligemma": ("Gemma terms", "Captions: PaliGemma by Google, under the Gemma Terms of Use."),
    "vit-gpt2": ("Apache-2.0", "Captions: nlpconnect/vit-gpt2-image-captioning, Apache-2.0."),
    "smollm2": ("Apache-2.0", "Texts: SmolLM2-135M-Instruct by Hugging Face, Apache-2.0."),
    "hand_landmarker": ("Apache-2.0", "Landmarks: MediaPipe's hand landmarker by Google, Apache-2.0."),
}  # fmt: skip


@dataclass(frozen=True)
class Model:
    """One model that took part."""

    stage: str
    name: str
    revision: str
    licence: str


@dataclass(frozen=True)
class Provenance:
    """What made the columns."""

    models: tuple[Model, ...]
    prompt: str | None
    licences: tuple[str, ...]  # one sentence each


def provenance(recipe: "Recipe") -> Provenance:
    """Return the models of a recipe's stages, in the order of the flow, and the rewriting prompt."""
    models, sentences, prompt = [], [], None
    for stage, found in fingerprints(recipe).items():
        if not isinstance(found, dict) or "model" not in found:
            continue
        name = Path(str(found["model"])).name if str(found["model"]).startswith("/") else str(found["model"])
        licence, sentence = _licence(name)
        models.append(Model(stage, name, str(found.get("revision") or found.get("sha256") or "-"), licence))
        sentences += [sentence] if sentence else []
        prompt = found.get("prompt", prompt)
    return Provenance(tuple(models), prompt, tuple(dict.fromkeys(sentences)))


def fingerprints(recipe: "Recipe") -> dict[str, Any]:
    """Return each stage's own words on what else than its rows decides its output."""
    from handdata import build

    found = {}
    for step in build.STEPS:
        module, _, attribute = step.run.partition(":")
        work = getattr(importlib.import_module(module), attribute)
        if isinstance(work, type):
            found[step.name] = work.fingerprint(getattr(recipe, step.options) if step.options else None)
    return found


def _licence(name: str) -> tuple[str, str | None]:
    for part, (licence, sentence) in _LICENCES.items():
        if part in name.lower():
            return licence, sentence
    return "see its own page", None

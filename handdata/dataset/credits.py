"""Which models and prompt made the columns of a dataset, with revisions and licences, from what the stages noted."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from handdata.rows.schema import STAGE_COLUMNS
from handdata.rows.shards import FINGERPRINT, shard_path

if TYPE_CHECKING:
    from handdata.recipe import Recipe

# what the card must say of a model's own licence, by a part of its name
_LICENCES = {
    "llama-3": ("Llama 3 Community License", "Texts: **Built with Meta Llama 3**. Meta Llama 3 is licensed under the"
                " Meta Llama 3 Community License, Copyright © Meta Platforms, Inc. All Rights Reserved."),
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


def provenance(build: Path, recipe: "Recipe") -> Provenance:
    """Return the models that made a build's columns, in the order of the flow, and the rewriting prompt.

    They come from what the stages wrote into their shards, so that a model need not be there any more.
    """
    names = {
        "landmarks": "hand_landmarker.task",
        "captions": _asked(recipe, "caption"),
        "texts": _asked(recipe, "rewrite"),
    }
    models, sentences, prompt = [], [], None
    for stage, found in fingerprints(build).items():
        if stage not in names or not isinstance(found, dict):
            continue
        name = Path(names[stage]).name if names[stage].startswith("/") else names[stage]
        licence, sentence = _licence(name)
        models.append(Model(stage, name, _revision(found), licence))
        sentences += [sentence] if sentence else []
        prompt = found.get("prompt", prompt)
    return Provenance(tuple(models), prompt, tuple(dict.fromkeys(sentences)))


def fingerprints(build: Path) -> dict[str, Any]:
    """Return each stage's own words on what else than its rows decided its output."""
    found = {}
    for stage in STAGE_COLUMNS:
        path = shard_path(build, stage, 0)
        stored = (pq.read_metadata(path).metadata or {}).get(FINGERPRINT) if path.is_file() else None
        if stored is not None:
            found[stage] = json.loads(stored)
    return found


def _asked(recipe: "Recipe", table: str) -> str:
    return str(getattr(getattr(recipe, table, None), "model", "unknown"))


def _revision(found: dict[str, Any]) -> str:
    known = found.get("revision") or found.get("model")
    if isinstance(known, dict):
        known = known.get("sha256") or known.get("revision")
    return str(known or "unknown")


def _licence(name: str) -> tuple[str, str | None]:
    for part, (licence, sentence) in _LICENCES.items():
        if part in name.lower():
            return licence, sentence
    return "see its own page", None

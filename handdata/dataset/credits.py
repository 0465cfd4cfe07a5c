"""The credits on the card: the source of the images, the models whose output the columns are, and the prompt."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handdata.recipe import Recipe, SourceOptions
from handdata.rows.schema import STAGE_COLUMNS
from handdata.rows.shards import FINGERPRINT, read_table, shard_path

HAGRID_LICENCE = "https://github.com/hukenovs/hagrid/blob/master/license/en_us.pdf"


@dataclass(frozen=True)
class Origin:
    """The card's text on a kind of source."""

    picture: str  # subject of one row: photograph or drawing
    summary: str
    licence: dict[str, str]  # for the card's metadata
    licence_line: str
    personal: str
    limits: tuple[str, ...]
    producers: str
    citation: str


HAGRID = Origin(
    picture="photograph of a person",
    summary="Photographs of people making hand gestures, chosen from HaGRID, each with the hand's landmarks and a text"
    " that names the gesture.",
    licence={"license": "other", "license_name": "hagrid", "license_link": HAGRID_LICENCE},
    licence_line=f"Images, boxes and labels: HaGRID by Alexander Kapitanov, Karina Kvanchiani, Alexander Nagaev, Roman"
    f" Kraynov and Andrei Makhliarchuk, under [its own public licence]({HAGRID_LICENCE}) (attribution and share-alike;"
    " not a Creative Commons licence; publicity and privacy rights of the people shown are not granted). Changes: a"
    " choice of images, orientation baked in, scaled down, EXIF removed; landmarks, captions and texts added.",
    personal="The photographs show people, many at home, faces included; HaGRID collected them from crowd workers for"
    " publication. `subject` is a shortened hash of HaGRID's user id. HaGRID's guesses of age, gender and race are not"
    " in this dataset; EXIF, which may hold a place, was removed. Captions describe people as a captioner saw them.",
    limits=(
        "The people are HaGRID's crowd workers: ages, skin tones and countries are not evenly represented.",
        "Most pictures were taken indoors, from the front, with the camera of a laptop or a telephone.",
        "Each picture is labelled with one gesture; other actions of the hands are not described.",
    ),
    producers="crowd workers who photographed themselves for HaGRID",
    citation="""@inproceedings{kapitanov2024hagrid,
  title     = {{HaGRID} -- {HAnd} Gesture Recognition Image Dataset},
  author    = {Kapitanov, Alexander and Kvanchiani, Karina and Nagaev, Alexander and Kraynov, Roman
               and Makhliarchuk, Andrei},
  booktitle = {IEEE/CVF Winter Conference on Applications of Computer Vision},
  year      = {2024}
}
""",
)

DRAWN = Origin(
    picture="drawing of an invented person",
    summary="Computer-drawn hands making gestures: a small HaGRID for trying out tools, without photographs and without"
    " people.",
    licence={"license": "apache-2.0"},
    licence_line="Images, boxes and labels: drawn by `handdata render`, under the Apache licence 2.0 like the program.",
    personal="The pictures are drawn and show nobody; `subject` identifies an invented person.",
    limits=(
        "Drawn hands lack most properties of photographs: a model trained on them generates drawings.",
        "It is meant for testing tools in minutes, not for training a model that people use.",
    ),
    producers="a program (`handdata render`); no person took part",
    citation="",
)

# Licence of a model and the sentence that the card must carry for it, by a part of the model's name.
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
    """A model whose output is a column."""

    stage: str
    name: str
    revision: str
    licence: str


@dataclass(frozen=True)
class Provenance:
    """The models and the prompt of a build."""

    models: tuple[Model, ...]
    prompt: str | None
    licences: tuple[str, ...]  # one sentence each


def origin(source: SourceOptions) -> Origin:
    """Return the text on a recipe's source. Every source that is not drawn has HaGRID's layout and licence."""
    return DRAWN if source.kind == "render" else HAGRID


def provenance(build: Path, recipe: Recipe) -> Provenance:
    """Return the models of a build, in the order of its stages, and the rewriting prompt.

    They are read from the shards of the stages, since the model files may have been removed.
    """
    names = {"landmarks": "hand_landmarker.task", "captions": recipe.caption.model, "texts": recipe.rewrite.model}
    models, sentences, prompt = [], [], None
    for stage, fingerprint in fingerprints(build).items():
        if stage not in names or not isinstance(fingerprint, dict):
            continue
        name = Path(names[stage]).name if names[stage].startswith("/") else names[stage]
        licence, sentence = _licence(name)
        models.append(Model(stage, name, _revision(fingerprint), licence))
        sentences += [sentence] if sentence else []
        prompt = fingerprint.get("prompt", prompt)
    return Provenance(tuple(models), prompt, tuple(dict.fromkeys(sentences)))


def fingerprints(build: Path) -> dict[str, Any]:
    """Return the fingerprint of each stage, from its first shard: options, prompt and model that decided its output."""
    stored_by_stage = {}
    for stage in STAGE_COLUMNS:
        table = read_table(shard_path(build, stage, 0), ["reason"])
        stored = (table.schema.metadata or {}).get(FINGERPRINT) if table is not None else None
        if stored is not None:
            stored_by_stage[stage] = json.loads(stored)
    return stored_by_stage


def _revision(fingerprint: dict[str, Any]) -> str:
    model = fingerprint.get("revision") or fingerprint.get("model")
    if isinstance(model, dict):
        model = model.get("sha256") or model.get("revision")
    return str(model or "unknown")


def _licence(name: str) -> tuple[str, str | None]:
    for part, (licence, sentence) in _LICENCES.items():
        if part in name.lower():
            return licence, sentence
    return "see the model's page", None

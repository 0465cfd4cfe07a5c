"""The credits on the card: the source of the images, the models whose output the columns are, and the prompt."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from handdata.recipe import Recipe
from handdata.rows.schema import COLUMNS, STAGE_COLUMNS
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
    tags: tuple[str, ...] = ("hands", "gestures", "hagrid", "hand1000", "hand-landmarks", "diffusion")
    splits: str = (
        "`train` consists of the source's training persons, `validation` of its validation persons (or of 5 % of the"
        " training\npersons where it has no validation split), `test` of its test persons. No person is in two splits."
    )
    columns: Mapping[str, str] = field(default_factory=dict)  # meanings of columns that are not HaGRID's
    annotation: str = "Boxes and labels are the source's. Landmarks, captions and texts are made by"
    given: bool = False  # captions came with the photographs

    @property
    def licence_address(self) -> str:
        """The licence as Croissant wants it: an address where one is known, else its name."""
        return self.licence.get("license_link") or _ADDRESSES.get(self.licence["license"], self.licence["license"])


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

_ADDRESSES = {
    "apache-2.0": "https://www.apache.org/licenses/LICENSE-2.0",
    "cc0-1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
    **{f"cc-{name}-4.0": f"https://creativecommons.org/licenses/{name}/4.0/"
       for name in ("by", "by-sa", "by-nc", "by-nd", "by-nc-sa", "by-nc-nd")},
}  # fmt: skip

_PHOTO_COLUMNS = {
    "gesture": "gesture, by its name in the recipe",
    "image_id": "first 32 hex digits of the sha256 of the photograph's pixels",
    "subject": "group of photographs of one person, or that look alike: 16 hex digits",
    "hagrid_split": "empty: the photographs are not from HaGRID",
    "orig_width": "width of the photograph, upright",
    "orig_height": "height of the photograph, upright",
    "bboxes": "boxes around the landmarks of the hands, with a margin: [x, y, width, height] in fractions of the image",
    "source": "folder or dataset that the photograph came from",
    "member": "`image_id` with the ending of its file: the file's own name is not published",
    "crc32": "CRC-32 of that file",
}

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


def origin(recipe: Recipe) -> Origin:
    """Return the text on a recipe's source. Archives and folders have HaGRID's layout and licence."""
    if recipe.source.kind == "photos":
        return _photographs(recipe)
    return DRAWN if recipe.source.kind == "render" else HAGRID


def _photographs(recipe: Recipe) -> Origin:
    """Return the text on a person's own photographs: what the recipe states, and nothing of HaGRID's."""
    name, credit = recipe.photos.license.strip(), recipe.photos.credit.strip()
    known = name.lower() if name.lower() in _ADDRESSES else ""
    licence = {"license": known or "other", **({} if known else {"license_name": name})} if name else {}
    by = f" by {credit}" if credit else ""
    texts = recipe.photos.texts
    return Origin(
        picture="photograph of a hand",
        summary="Photographs of hand gestures, each with the hand's landmarks and a text that names the gesture.",
        licence=licence or {"license": "unknown"},
        licence_line=f"Photographs{by}: {name}."
        if name
        else f"Photographs{by}: no licence was stated; ask before use.",
        personal="The photographs may show people. EXIF, which may hold a place, was removed. `subject` is a hash that"
        " groups the photographs of one person, or those that look alike.",
        limits=(
            "All photographs are from one collection: persons, places and light may vary little.",
            "Boxes are computed from MediaPipe's landmarks, and so is the choice of the hand that makes the gesture;"
            " no person has annotated them.",
        ),
        producers=credit or "the owner of the photographs",
        citation="",
        tags=("hands", "gestures", "hand1000", "hand-landmarks", "diffusion"),
        splits="About a tenth of each gesture's photographs are in `validation` and in `test`. Photographs of one"
        " person, where persons are\nknown, and photographs that look alike, such as bursts, are in one split.",
        columns=_PHOTO_COLUMNS
        | ({"caption": "caption that came with the photograph"} if texts != "none" else {})
        | ({"text": f"text that came with the photograph; {COLUMNS['text'].meaning}"} if texts == "final" else {}),
        annotation="Boxes, labels and landmarks are computed; captions and texts are made by",
        given=texts != "none",
    )


def provenance(build: Path, recipe: Recipe) -> Provenance:
    """Return the models of a build, in the order of its stages, and the rewriting prompt.

    They are read from the shards of the stages, since the model files may have been removed.
    """
    names = {"landmarks": "hand_landmarker.task", "captions": recipe.caption.model, "texts": recipe.rewrite.model}
    models, sentences, prompt = [], [], None
    for stage, fingerprint in fingerprints(build).items():
        if stage not in names or not isinstance(fingerprint, dict) or "given" in fingerprint:
            continue
        name = Path(names[stage]).name if names[stage].startswith("/") else names[stage]
        licence, sentence = _licence(name)
        models.append(Model(stage, name, _revision(fingerprint), licence))
        sentences += [sentence] if sentence else []
        prompt = fingerprint.get("prompt", prompt) if stage == "texts" else prompt
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

"""Write the description of a dataset: README.md (the Hub's card), croissant.json, contact sheet, statistics."""

import json
import string
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from handdata.dataset import croissant, figures
from handdata.dataset.credits import Origin, Provenance, origin, provenance
from handdata.files import read_sealed_json, write_json, write_text
from handdata.markdown import markdown_table
from handdata.recipe import Recipe
from handdata.rows.publication import Choice
from handdata.rows.schema import COLUMNS, REASONS, SPLITS, features
from handdata.rows.shards import image_path
from handdata.texts.clip_tokens import clip_tokens

VERSION = 2  # raised when a change of the code changes the files

_TEMPLATE = Path(__file__).with_name("card.md")
_SHEET_COLUMNS = 6
_LIMITS = (
    "Captions come from an image captioner; some are wrong, and they describe people by their looks.",
    "Landmarks come from MediaPipe, not from people; `landmarks_in_box` measures how well they fit the annotated box.",
    "Captions and texts are English.",
)
_SIZE, _AGREEMENT, _LENGTH = "hand's box, % of the image", "landmarks inside the box, %", "text length, CLIP tokens"
_LIMIT_OF = {_AGREEMENT: 100.0, _LENGTH: 77.0}


def write(
    build: Path, folder: Path, recipe: Recipe, steps: dict[str, str], summary: dict[str, Any], rows: pa.Table,
    choice: Choice,
) -> None:  # fmt: skip
    """Write README.md, croissant.json and figures/ into the dataset's folder; `steps` are those of the build."""
    values = _measures(rows, choice)
    figures.contact_sheet(_sheet(build, rows, choice), folder / "figures" / "contact_sheet.jpg", _SHEET_COLUMNS)
    figures.statistics(values, _LIMIT_OF, folder / "figures" / "statistics.png")
    source, made_by = origin(recipe), provenance(build, recipe)
    versions = (read_sealed_json(build / "run.json") or {}).get("versions", {})
    fields = _fields(recipe, source, made_by, summary, values) | {
        "steps": "\n".join(f"{i}. `{name}` {words}." for i, (name, words) in enumerate(steps.items(), 1)),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()) or "not recorded",
    }
    template = string.Template(_TEMPLATE.read_text(encoding="utf-8"))
    write_text(folder / "README.md", template.substitute(fields))
    schema = features(list(recipe.select.gestures)).arrow_schema
    words = _croissant_words(list(steps.values()), source, made_by)
    write_json(
        folder / "croissant.json", croissant.describe(_title(recipe), words, summary["files"], schema, source.columns)
    )


def metadata(recipe: Recipe, source: Origin, summary: dict[str, Any]) -> str:
    """Return the card's YAML: licence, tags, configurations (one per gesture, and `all`), features and counts."""
    values = {
        **source.licence,
        "pretty_name": _title(recipe),
        "language": ["en"],
        "task_categories": ["text-to-image", "image-to-text", "image-classification"],
        "tags": list(source.tags),
    }
    return front_matter(values, summary, features(list(recipe.select.gestures))._to_yaml_list())


def front_matter(values: dict[str, Any], summary: dict[str, Any], columns: Any) -> str:
    """Return a card's YAML: these values, and a configuration per key of `summary["rows"]`, and `all`, with counts."""
    from huggingface_hub import DatasetCardData

    total = sum(sum(splits.values()) for splits in summary["rows"].values())
    groups = {gesture: [gesture] for gesture in summary["rows"]}
    groups = {name: members for name, members in groups.items() if any(summary["rows"][name].values())}
    named = {"all": list(groups), **groups}
    values = {
        **values,
        "size_categories": [_size_category(total)],
        "configs": [_configuration(name, members, summary) for name, members in named.items()],
        "dataset_info": [_information(name, members, summary, columns) for name, members in named.items()],
    }
    return str(DatasetCardData(**_unshared(values)).to_yaml(line_break="\n"))


def _unshared(values: dict[str, Any]) -> dict[str, Any]:
    """Return a copy without shared parts: YAML writes a part that occurs twice as an anchor and an alias."""
    copied: dict[str, Any] = json.loads(json.dumps(values))
    return copied


def _fields(
    recipe: Recipe,
    source: Origin,
    made_by: Provenance,
    summary: dict[str, Any],
    values: dict[str, dict[str, list[float]]],
) -> dict[str, str]:
    limits = [*source.limits, *_limits(source), *([recipe.publish.notes] if recipe.publish.notes else [])]
    return {
        "metadata": metadata(recipe, source, summary).strip(),
        "title": _title(recipe),
        "summary": source.summary,
        "picture": source.picture,
        "recipe": recipe.name,
        "example_id": "USER/NAME",
        "example_gesture": next(iter(summary["rows"])),
        "gesture_count": str(len(summary["rows"])),
        "rows_table": _rows_table(summary),
        "shortfalls": _shortfalls(summary),
        "columns_table": markdown_table(
            ["column", "meaning"], [(f"`{k}`", source.columns.get(k, v.meaning)) for k, v in COLUMNS.items()]
        ),
        "splits": source.splits,
        "models_table": _models_table(made_by),
        "prompt": _prompt(made_by),
        "closest": _closest(summary, recipe.assemble.near_duplicate),
        "left_out": _left_out(summary),
        "statistics_table": _statistics_table(values),
        "personal": source.personal,
        "limits": "\n".join(f"- {line}" for line in limits),
        "licences": "\n".join(f"- {line}" for line in [source.licence_line, *made_by.licences]),
        "source_citation": source.citation,
        "contact": recipe.publish.contact,
    }


def _limits(source: Origin) -> tuple[str, ...]:
    return _LIMITS[1:] if source.given else _LIMITS


def _title(recipe: Recipe) -> str:
    return recipe.publish.title or recipe.name


def _configuration(name: str, members: list[str], summary: dict[str, Any]) -> dict[str, Any]:
    folder = "*" if name == "all" else name
    files = [{"split": split, "path": f"data/{folder}/{split}-*.parquet"} for split in _splits(members, summary)]
    return {"config_name": name, "data_files": files} | ({"default": True} if name == "all" else {})


def _information(name: str, members: list[str], summary: dict[str, Any], features: Any) -> dict[str, Any]:
    counts, sizes = Counter[str](), Counter[str]()
    for file in summary["files"]:
        gesture, split = file["path"].split("/")[1], file["path"].split("/")[2].split("-")[0]
        if gesture in members:
            counts[split] += file["rows"]
            sizes[split] += file["bytes"]
    splits = [
        {"name": split, "num_bytes": sizes[split], "num_examples": counts[split]} for split in _splits(members, summary)
    ]
    total = sum(sizes.values())
    return {
        "config_name": name, "features": features, "splits": splits, "download_size": total, "dataset_size": total
    }  # fmt: skip


def _splits(members: list[str], summary: dict[str, Any]) -> list[str]:
    return [split for split in SPLITS if any(summary["rows"][gesture][split] for gesture in members)]


def _size_category(rows: int) -> str:
    for limit, name in ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")):
        if rows < limit:
            return name
    return "1M<n<10M"


def _rows_table(summary: dict[str, Any]) -> str:
    counts = summary["rows"]
    lines = [[gesture, *(counts[gesture][s] for s in SPLITS), sum(counts[gesture].values())] for gesture in counts]
    sums = [sum(line[column] for line in lines) for column in range(1, 5)]
    return markdown_table(["gesture", *SPLITS, "together"], [*lines, ["**all**", *sums]])


def _shortfalls(summary: dict[str, Any]) -> str:
    if not summary["shortfalls"]:
        return "Every gesture and split has the number of rows that the recipe requests."
    lines = (f"- {s['gesture']}, {s['split']}: {s['there']:,} of {s['asked']:,}" for s in summary["shortfalls"])
    return "Fewer rows than the recipe requests, since no spares are left:\n\n" + "\n".join(lines)


def _closest(summary: dict[str, Any], near: int) -> str:
    bits = summary["closest_bits"]
    if bits is None:
        return "there is only one split."
    return f"their 64-bit perceptual hashes differ in at least {bits} bits; {near} or fewer are not allowed."


def _left_out(summary: dict[str, Any]) -> str:
    reasons, spares = Counter[str](), sum(group["spares_used"] for group in summary["left_out"])
    for group in summary["left_out"]:
        reasons.update(group["reasons"])
    if not reasons:
        return "Nothing: every selected image was usable."
    table = markdown_table(
        ["images", "why"], [(count, REASONS.get(name, name)) for name, count in reasons.most_common()]
    )
    return f"Of the selected images and their spares; {spares:,} spares were used.\n\n{table}"


def _models_table(made_by: Provenance) -> str:
    if not made_by.models:
        return "No model was used."
    head = ["stage", "model", "revision or sha256", "licence"]
    return markdown_table(head, [(m.stage, f"`{m.name}`", f"`{m.revision}`", m.licence) for m in made_by.models])


def _prompt(made_by: Provenance) -> str:
    if not made_by.prompt:
        return ""
    quoted = "\n".join(f"    {line}".rstrip() for line in made_by.prompt.splitlines())
    return f"The prompt of the rewriting model:\n\n{quoted}"


def _measures(rows: pa.Table, choice: Choice) -> dict[str, dict[str, list[float]]]:
    """Return one number per published row, by measure and gesture."""
    columns = {name: rows[name].to_pylist() for name in ("bboxes", "labels", "landmarks_in_box", "text")}
    tokens = clip_tokens()

    def hand_size(row: int, gesture: str) -> float | None:
        areas = [box[2] * box[3] for box, label in zip(columns["bboxes"][row], columns["labels"][row], strict=True)
                 if label == gesture]  # fmt: skip
        return 100 * max(areas) if areas else None

    measures: dict[str, Callable[[int, str], float | None]] = {
        _SIZE: hand_size,
        _AGREEMENT: lambda row, _: None if (share := columns["landmarks_in_box"][row]) is None else 100 * share,
        _LENGTH: lambda row, _: float(tokens.count(columns["text"][row])),
    }
    chosen = {g: [row for split in SPLITS for row in choice.rows[g, split]] for g in choice.gestures}
    return {
        name: {
            g: [v for row in numbers if (v := measure(row, g)) is not None] for g, numbers in chosen.items() if numbers
        }
        for name, measure in measures.items()
    }


def _statistics_table(values: dict[str, dict[str, list[float]]]) -> str:
    lines = [[gesture, *(_median(of[gesture]) for of in values.values())] for gesture in next(iter(values.values()))]
    return "Medians:\n\n" + markdown_table(["gesture", *values], lines)


def _median(numbers: list[float]) -> float | str:
    return round(float(np.median(numbers)), 1) if numbers else "none"


def _sheet(build: Path, rows: pa.Table, choice: Choice) -> figures.Sheet:
    lines = []
    for gesture in choice.gestures:
        numbers = next((choice.rows[gesture, split] for split in SPLITS if choice.rows[gesture, split]), [])
        ids = [rows["image_id"][row].as_py() for row in numbers[:_SHEET_COLUMNS]]
        if ids:
            lines.append((gesture, [image_path(build, gesture, name).read_bytes() for name in ids]))
    return lines


def _croissant_words(steps: list[str], source: Origin, made_by: Provenance) -> dict[str, Any]:
    models = ", ".join(f"{m.name} ({m.stage})" for m in made_by.models) or "none"
    return {
        "description": source.summary,
        "license": source.licence_address,
        "url": "https://arxiv.org/abs/2408.15461",
        "creator": {"@type": "sc:Organization", "name": "users of hand1000"},
        "keywords": ["hands", "gestures", "text-to-image"],
        "rai:dataCollection": f"Pictures were made by {source.producers}; images were chosen by a hash (README.md).",
        "rai:dataPreprocessingProtocol": steps,
        "rai:dataAnnotationProtocol": f"{source.annotation}"
        " programs and checked by rules; `checks` lists the checks that captions and drafts failed.",
        "rai:machineAnnotationTools": models,
        "rai:dataUseCases": "Fine-tuning and evaluating text-to-image models that draw hands; research on gestures."
        " Not for recognising or profiling people.",
        "rai:dataLimitations": [*source.limits, *_limits(source)],
        "rai:dataBiases": source.limits[0],
        "rai:personalSensitiveInformation": source.personal,
        "rai:dataReleaseMaintenancePlan": "Images and persons are removed on request (see README.md), and the dataset"
        " is published again.",
    }  # fmt: skip

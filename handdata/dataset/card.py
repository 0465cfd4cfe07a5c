"""Write what describes the dataset: README.md (the Hub's card), croissant.json, contact sheet, statistics."""

import json
import string
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from handdata.dataset import croissant, figures
from handdata.dataset.credits import Provenance, provenance
from handdata.dataset.origins import Origin, origin
from handdata.rows.schema import COLUMNS, REASONS, SPLITS, features
from handdata.rows.shards import image_path

if TYPE_CHECKING:
    from handdata.recipe import Recipe
    from handdata.rows.publication import Choice

VERSION = 1  # raised when a change of the code changes what comes out

_TEMPLATE = Path(__file__).with_name("card.md")
_SHEET_COLUMNS = 6
_NO_CAPTION = (
    "The captions come from a program that looks at pictures; they are wrong now and then, and describe people by how"
    " they look to it."
)
_LIMITS = (
    _NO_CAPTION,
    "Landmarks come from MediaPipe, not from people; `landmarks_in_box` says how well they fit the box people drew.",
    "Captions and texts are English.",
)
_SIZE, _AGREEMENT, _LENGTH = "hand's box, % of the image", "landmarks inside the box, %", "text length, CLIP tokens"
_LIMIT_OF = {_AGREEMENT: 100.0, _LENGTH: 77.0}
_STEPS = (
    ("select", "chose images by a hash of (seed {seed}, image id), so that nobody's taste took part"),
    ("fetch", "took exactly those out of the source's archives, checked CRC-32, baked in the orientation, scaled to a"
     " short side of {short_side} px where larger, removed EXIF"),
    ("landmarks", "found hands with MediaPipe on the stored image"),
    ("captions", "described each image by an image captioner"),
    ("texts", "rewrote each caption by a language model so that it names the gesture; rules checked every draft"),
    ("assemble", "took the asked number of rows per gesture and split; a spare stands in for a row that failed"),
)  # fmt: skip


def write(
    build: Path, folder: Path, recipe: "Recipe", summary: dict[str, Any], rows: pa.Table, choice: "Choice"
) -> None:
    """Write README.md, croissant.json and figures/ into the dataset's folder."""
    start = origin(recipe.source)
    values = _measures(rows, choice, recipe.select.gestures)
    figures.contact_sheet(_sheet(build, rows, choice, recipe), folder / "figures" / "contact_sheet.jpg", _SHEET_COLUMNS)
    figures.statistics(values, _LIMIT_OF, folder / "figures" / "statistics.png")
    fields = _fields(build, recipe, start, summary, values)
    text = string.Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(fields)
    (folder / "README.md").write_text(text, encoding="utf-8")
    schema = features(list(recipe.select.gestures)).arrow_schema
    described = croissant.describe(_title(recipe), _croissant_words(build, recipe, start), summary["files"], schema)
    (folder / "croissant.json").write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")


def table(head: list[str], lines: Iterable[Iterable[Any]]) -> str:
    """Return a Markdown table; columns after the first are right-aligned where all their cells are numbers."""
    cells = [[_cell(value) for value in line] for line in lines]
    numeric = [all(line[i].replace(",", "").replace(".", "").isdigit() for line in cells) for i in range(len(head))]
    rule = ["---:" if right and cells else "---" for right in numeric]
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, rule, *cells])


def metadata(recipe: "Recipe", start: Origin, summary: dict[str, Any]) -> str:
    """Return the card's YAML: licence, tags, configurations (one per gesture, and `all`), features and counts."""
    from huggingface_hub import DatasetCardData

    total = sum(sum(splits.values()) for splits in summary["rows"].values())
    columns = features(list(recipe.select.gestures))._to_yaml_list()
    groups = {gesture: [gesture] for gesture in summary["rows"]}
    groups = {name: held for name, held in groups.items() if any(summary["rows"][name].values())}
    named = {"all": list(groups), **groups}
    licence: dict[str, Any] = dict(start.licence)
    data = DatasetCardData(
        **licence,
        pretty_name=_title(recipe),
        language=["en"],
        task_categories=["text-to-image", "image-to-text", "image-classification"],
        tags=["hands", "gestures", "hagrid", "hand1000", "hand-landmarks", "diffusion"],
        size_categories=[_size_category(total)],
        configs=[_configuration(name, held, summary) for name, held in named.items()],
        dataset_info=[_information(name, held, summary, columns) for name, held in named.items()],
    )
    return str(data.to_yaml(line_break="\n"))


def _fields(
    build: Path, recipe: "Recipe", start: Origin, summary: dict[str, Any], values: dict[str, dict[str, list[float]]]
) -> dict[str, str]:
    run = build / "run.json"
    versions = json.loads(run.read_text()).get("versions", {}) if run.is_file() else {}
    made = provenance(build, recipe)
    steps = (f"{i}. `{name}` {words}." for i, (name, words) in enumerate(_STEPS, 1))
    limits = [*start.limits, *_LIMITS, *([recipe.publish.notes] if recipe.publish.notes else [])]
    return {
        "metadata": metadata(recipe, start, summary).strip(),
        "title": _title(recipe),
        "summary": start.summary,
        "picture": start.picture,
        "recipe": recipe.name,
        "example_id": "USER/NAME",
        "example_gesture": next(iter(summary["rows"])),
        "gesture_count": str(len(summary["rows"])),
        "rows_table": _rows_table(summary),
        "shortfalls": _shortfalls(summary),
        "columns_table": table(["column", "meaning"], ([f"`{k}`", v] for k, v in COLUMNS.items())),
        "steps": "\n".join(steps).format(seed=recipe.select.seed, short_side=recipe.image.short_side),
        "models_table": _models_table(made),
        "prompt": _prompt(made),
        "closest": _closest(summary, recipe.assemble.near_duplicate),
        "left_out": _left_out(summary),
        "statistics_table": _statistics_table(values),
        "personal": start.personal,
        "limits": "\n".join(f"- {line}" for line in limits),
        "licences": "\n".join(f"- {line}" for line in [start.licence_line, *made.licences]),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()) or "not recorded",
        "source_citation": start.citation,
        "contact": recipe.publish.contact,
    }


def _title(recipe: "Recipe") -> str:
    return recipe.publish.title or recipe.name


def _configuration(name: str, held: list[str], summary: dict[str, Any]) -> dict[str, Any]:
    folder = "*" if name == "all" else name
    files = [{"split": split, "path": f"data/{folder}/{split}-*.parquet"} for split in _splits(held, summary)]
    return {"config_name": name, "data_files": files} | ({"default": True} if name == "all" else {})


def _information(name: str, held: list[str], summary: dict[str, Any], features: Any) -> dict[str, Any]:
    counts, sizes = Counter[str](), Counter[str]()
    for file in summary["files"]:
        gesture, split = file["path"].split("/")[1], file["path"].split("/")[2].split("-")[0]
        if gesture in held:
            counts[split] += file["rows"]
            sizes[split] += file["bytes"]
    splits = [
        {"name": split, "num_bytes": sizes[split], "num_examples": counts[split]} for split in _splits(held, summary)
    ]
    total = sum(sizes.values())
    return {
        "config_name": name, "features": features, "splits": splits, "download_size": total, "dataset_size": total
    }  # fmt: skip


def _splits(held: list[str], summary: dict[str, Any]) -> list[str]:
    return [split for split in SPLITS if any(summary["rows"][gesture][split] for gesture in held)]


def _size_category(rows: int) -> str:
    for limit, name in ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")):
        if rows < limit:
            return name
    return "1M<n<10M"


def _rows_table(summary: dict[str, Any]) -> str:
    counts = summary["rows"]
    lines = [[gesture, *(counts[gesture][s] for s in SPLITS), sum(counts[gesture].values())] for gesture in counts]
    sums = [sum(line[column] for line in lines) for column in range(1, 5)]
    return table(["gesture", *SPLITS, "together"], [*lines, ["**all**", *sums]])


def _shortfalls(summary: dict[str, Any]) -> str:
    if not summary["shortfalls"]:
        return "Every gesture and split has as many rows as the recipe asks for."
    lines = (f"- {s['gesture']}, {s['split']}: {s['there']:,} of {s['asked']:,}" for s in summary["shortfalls"])
    return "Fewer rows than the recipe asks for, since no more could be had:\n\n" + "\n".join(lines)


def _closest(summary: dict[str, Any], near: int) -> str:
    bits = summary["closest_bits"]
    if bits is None:
        return "there is one split only."
    return f"their 64-bit perceptual hashes differ in at least {bits} bits; {near} or fewer were not allowed."


def _left_out(summary: dict[str, Any]) -> str:
    reasons, spares = Counter[str](), sum(group["spares_used"] for group in summary["left_out"])
    for group in summary["left_out"]:
        reasons.update(group["reasons"])
    if not reasons:
        return "Nothing: every selected image could be used."
    known = table(["images", "why"], ([count, REASONS.get(name, name)] for name, count in reasons.most_common()))
    return f"Of the selected images and their spares; {spares:,} spares came in.\n\n{known}"


def _models_table(made: Provenance) -> str:
    if not made.models:
        return "No model took part."
    head = ["stage", "model", "revision or sha256", "licence"]
    return table(head, ([m.stage, f"`{m.name}`", f"`{m.revision}`", m.licence] for m in made.models))


def _prompt(made: Provenance) -> str:
    if not made.prompt:
        return ""
    quoted = "\n".join(f"    {line}".rstrip() for line in made.prompt.splitlines())
    return f"The prompt of the rewriting model:\n\n{quoted}"


def _measures(rows: pa.Table, choice: "Choice", gestures: tuple[str, ...]) -> dict[str, dict[str, list[float]]]:
    """Return for each measure and gesture one number per published row."""
    from handdata.texts.clip_tokens import clip_tokens

    columns = {name: rows[name].to_pylist() for name in ("bboxes", "labels", "landmarks_in_box", "text")}
    tokens = clip_tokens()

    def hand_size(row: int, gesture: str) -> float | None:
        areas = [box[2] * box[3] for box, label in zip(columns["bboxes"][row], columns["labels"][row], strict=True)
                 if label == gesture]  # fmt: skip
        return 100 * max(areas) if areas else None

    measures: dict[str, Callable[[int, str], float | None]] = {
        _SIZE: hand_size,
        _AGREEMENT: lambda row, _: _percent(columns["landmarks_in_box"][row]),
        _LENGTH: lambda row, _: float(tokens.count(columns["text"][row])),
    }
    chosen = {g: [row for split in SPLITS for row in choice.rows[g, split]] for g in gestures}
    return {
        name: {g: [v for row in held if (v := measure(row, g)) is not None] for g, held in chosen.items() if held}
        for name, measure in measures.items()
    }


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _statistics_table(values: dict[str, dict[str, list[float]]]) -> str:
    names = list(values)
    gestures = list(values[names[0]])
    lines = [[g, *(_median(values[name][g]) for name in names)] for g in gestures]
    return "Medians:\n\n" + table(["gesture", *names], lines)


def _median(numbers: list[float]) -> str:
    return f"{np.median(numbers):.1f}" if numbers else "none"


def _sheet(build: Path, rows: pa.Table, choice: "Choice", recipe: "Recipe") -> figures.Sheet:
    lines = []
    for gesture in recipe.select.gestures:
        held = next((choice.rows[gesture, split] for split in SPLITS if choice.rows[gesture, split]), [])
        ids = [rows["image_id"][row].as_py() for row in held[:_SHEET_COLUMNS]]
        if ids:
            lines.append((gesture, [image_path(build, gesture, name).read_bytes() for name in ids]))
    return lines


def _croissant_words(build: Path, recipe: "Recipe", start: Origin) -> dict[str, Any]:
    made = provenance(build, recipe)
    models = ", ".join(f"{m.name} ({m.stage})" for m in made.models) or "none"
    return {
        "description": start.summary,
        "license": start.licence.get("license_link", "https://www.apache.org/licenses/LICENSE-2.0"),
        "url": "https://arxiv.org/abs/2408.15461",
        "creator": {"@type": "sc:Organization", "name": "users of hand1000"},
        "keywords": ["hands", "gestures", "text-to-image"],
        "rai:dataCollection": f"The pictures were made by {start.producers}; images were chosen by a hash (README.md).",
        "rai:dataPreprocessingProtocol": [words.format(seed=recipe.select.seed, short_side=recipe.image.short_side)
                                          for _, words in _STEPS],
        "rai:dataAnnotationProtocol": "Boxes and labels are the source's. Landmarks, captions and texts are made by"
        " programs and checked by rules; `checks` keeps what failed on the way.",
        "rai:machineAnnotationTools": models,
        "rai:dataUseCases": "Fine-tuning and evaluating text-to-image models that draw hands; research on gestures."
        " Not for recognising or profiling people.",
        "rai:dataLimitations": [*start.limits, *_LIMITS],
        "rai:dataBiases": start.limits[0],
        "rai:personalSensitiveInformation": start.personal,
        "rai:dataReleaseMaintenancePlan": "Images and persons are taken out on request (README.md says how), and the"
        " dataset is published again.",
    }  # fmt: skip


def _cell(value: Any) -> str:
    text = f"{value:,}" if isinstance(value, int) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")

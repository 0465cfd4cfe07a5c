"""The configurations of a published dataset, as its card lists them, with the files of their splits.

The card's own patterns decide, and are applied inside the dataset's folder: a folder's name may hold `[`, `{` or `::`.
Of a repository on the Hub, the files that are requested are fetched into the Hub's cache at one commit.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from handdata.errors import UserError
from handdata.huggingface import HubName, Place, at_commit, require_folder, snapshot
from handdata.readers import read_text

_CARD = "README.md"
Splits = dict[str, list[str]]  # patterns of files by the name of the split


@dataclass(frozen=True)
class Published:
    """A published dataset: its place, its card, and the patterns of its files."""

    place: Place  # a repository is given with its commit
    option: str  # for messages
    card: str
    configurations: dict[str, Splits]

    def splits(self, configuration: str) -> list[str]:
        """Return the names of a configuration's splits. Raises `UserError` for an unknown configuration."""
        if configuration not in self.configurations:
            names = ", ".join(self.configurations) or "none"
            raise UserError(
                f"{self.option} {self.place} has no configuration '{configuration}' (--gesture); it has {names}"
            )
        return list(self.configurations[configuration])

    def files(self, configuration: str, split: str) -> list[Path]:
        """Return the files of a split, which are fetched if necessary. Raises `UserError` for an unknown split."""
        if split not in self.splits(configuration):
            known = ", ".join(self.configurations[configuration])
            raise UserError(f"{self.option} {self.place} has no split '{split}' for {configuration}; it has {known}")
        patterns = self.configurations[configuration][split]
        place = self.place
        folder = snapshot(place, "dataset", self.option, patterns) if isinstance(place, HubName) else place
        found = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
        if not found:
            raise UserError(
                f"{self.option} {place} lacks the files {', '.join(patterns)} of its card: publish it again"
            )
        return sorted(found)


def open_published(place: Place, option: str) -> Published:
    """Return a dataset by its card. Raises `UserError` for a place without a card, or a card without configurations."""
    if isinstance(place, HubName):
        place = at_commit(place, "dataset", option)
        card = snapshot(place, "dataset", option, [_CARD]) / _CARD
    else:
        card = require_folder(place, option) / _CARD
    if not card.is_file():
        raise UserError(f"{option} {place} does not contain a dataset: name one of `handdata publish`")
    text = read_text(card, option)
    return Published(place, option, text, _configurations(text, f"{option} {place}"))


def _configurations(card: str, where: str) -> dict[str, Splits]:
    """Return the configurations of a card's metadata, which is YAML between two lines `---`."""
    import yaml

    lines = card.splitlines()
    end = lines.index("---", 1) if lines[:1] == ["---"] and "---" in lines[1:] else 0
    try:
        metadata = yaml.safe_load("\n".join(lines[1:end]))
        return {str(entry["config_name"]): _splits(entry["data_files"]) for entry in metadata["configs"]}
    except (yaml.YAMLError, RecursionError, LookupError, TypeError, ValueError):
        raise UserError(
            f"{where} does not contain a dataset: its {_CARD} does not list configurations with files in it"
        ) from None


def _splits(listed: Any) -> Splits:
    """Return the patterns of each split. The Hub knows a pattern, a list of them, and both by split."""
    if isinstance(listed, Mapping):
        return {str(split): _patterns(paths) for split, paths in listed.items()}
    if isinstance(listed, list) and listed and all(isinstance(entry, Mapping) for entry in listed):
        return {str(entry["split"]): _patterns(entry["path"]) for entry in listed}
    return {"train": _patterns(listed)}


def _patterns(listed: Any) -> list[str]:
    patterns = [listed] if isinstance(listed, str) else list(listed)
    for pattern in patterns:
        path = PurePosixPath(pattern)
        if not path.parts or path.is_absolute() or ".." in path.parts or "://" in pattern:
            raise ValueError(pattern)
    return patterns

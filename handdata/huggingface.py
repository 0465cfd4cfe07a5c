"""Names, commits and snapshots of the Hugging Face Hub, and its library's errors as sentences.

A place is a folder, or `hf:USER/NAME[@REVISION]` on the Hub. A model can also be given by the name of a shipped one.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from handdata.errors import Unfinished, UserError
from handdata.files import sha256_of
from handdata.shipped import shipped_model

# These patterns leave out pickles (.bin, .ckpt), half-precision and non-EMA copies of the same weights, and single-file
# models at the top level.
COMPONENT_FILES = ["*.json", "*.txt", "*.safetensors"]
OTHER_WEIGHTS = ["*.fp16.*", "*.bf16.*", "*non_ema*"]
_PIPELINE_FILES = ["*.json", "*.txt", "*/*.safetensors", "fusion.safetensors", "README.md"]
_SMALL_FILES = ["*.json", "*.txt", "*.model", "*.jinja"]


@dataclass(frozen=True)
class HubName:
    """A repository on the Hub, at a branch, tag or commit (None: the main branch)."""

    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"hf:{self.repo}" + (f"@{self.revision}" if self.revision else "")


Place = Path | HubName


def parse(text: str, option: str, new: bool = False) -> Place:
    """Return the place that a user wrote. A folder must exist unless it is `new`.

    Raises `UserError` naming the option for a malformed Hub name or a missing folder.
    """
    if not text.startswith("hf:"):
        return Path(text) if new else require_folder(Path(text), option)
    name = re.fullmatch(r"hf:([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", text, flags=re.ASCII)
    if not name:
        raise UserError(f"{option} {text} is not a Hub name: write hf:USER/NAME or hf:USER/NAME@REVISION")
    return HubName(name[1], name[2])


def parse_model(text: str, option: str) -> Place:
    """Return the place of a model that a user wrote: as `parse`, or the name of a shipped model.

    Raises `UserError` as `parse` does.
    """
    shipped = None if Path(text).is_dir() else shipped_model(text)
    return shipped or parse(text, option)


def require_folder(folder: Path, option: str) -> Path:
    """Return the folder, or raise `UserError` that names the option."""
    if not folder.is_dir():
        raise UserError(f"{option} {folder} is not a folder: a repository on the Hub is written hf:USER/NAME")
    return folder


def at_commit(name: HubName, kind: str, option: str) -> HubName:
    """Return the same repository at its current commit on the Hub. `kind` is `model` or `dataset`."""
    from huggingface_hub import HfApi

    with hub_errors(name, option):
        api = HfApi()
        info = api.model_info if kind == "model" else api.dataset_info
        return HubName(name.repo, info(name.repo, revision=name.revision).sha)


def pipeline_folder(place: Place, option: str) -> tuple[Path, HubName | None]:
    """Return a local folder with a diffusers model, and the repository at its commit if it came from the Hub."""
    if isinstance(place, Path):
        return require_folder(place, option), None
    from huggingface_hub import snapshot_download

    commit = at_commit(place, "model", option)
    with hub_errors(place, option):
        folder = snapshot_download(
            commit.repo, revision=commit.revision, allow_patterns=_PIPELINE_FILES, ignore_patterns=OTHER_WEIGHTS
        )
    return Path(folder), commit


def model_folder(model: str, revision: str, option: str = "--model") -> tuple[Path, str]:
    """Return the folder of a transformers model and its commit; for a folder or a shipped model, a hash of its files.

    `model` is a folder, a shipped name, or USER/NAME on the Hub, with or without `hf:`. Files that are not in the
    Hub's cache are fetched, weights as safetensors if the model has them. Raises `UserError` if the model does
    not exist or is gated, `Unfinished` if the Hub cannot be reached.
    """
    folder = local_model(model)
    if folder:
        return folder, _folder_hash(folder, _folder_state(folder))
    name, _, at = model.removeprefix("hf:").partition("@")
    return _snapshot(HubName(name, at or revision), option)


def local_model(model: str) -> Path | None:
    """Return the folder of a local or shipped model, None for one on the Hub."""
    return Path(model) if Path(model).is_dir() else shipped_model(model)


@cache
def _snapshot(name: HubName, option: str) -> tuple[Path, str]:
    import httpx2
    from huggingface_hub import HfApi, snapshot_download

    with hub_errors(name, option):
        try:
            about = HfApi().model_info(name.repo, revision=name.revision)  # one request, which is not repeated
        except (httpx2.TransportError, ConnectionError):  # no network, or HF_HUB_OFFLINE: the cache is used
            folder = Path(snapshot_download(name.repo, revision=name.revision, local_files_only=True))
        else:
            files = [file.rfilename for file in about.siblings or ()]
            weights = "*.safetensors" if any(file.endswith(".safetensors") for file in files) else "*.bin"
            patterns = [*_SMALL_FILES, weights]
            folder = Path(snapshot_download(name.repo, revision=name.revision, allow_patterns=patterns))
    return folder, folder.name


@contextmanager
def hub_errors(name: HubName, option: str) -> Iterator[None]:
    """Convert errors of the Hub's library into one sentence: `UserError` for a mistake, `Unfinished` for a failure."""
    from httpx2 import TransportError
    from huggingface_hub import errors

    try:
        yield
    except errors.HFValidationError:
        raise UserError(f"{option} {name.repo} is neither a folder nor a name on the Hub (USER/NAME)") from None
    except errors.GatedRepoError:
        raise UserError(
            f"{option} {name} is gated: accept its terms on the Hub and log in with `hf auth login`"
        ) from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{option} {name}: the repository has no revision '{name.revision}'") from None
    except errors.RepositoryNotFoundError:
        raise UserError(f"{option} {name} is not on the Hub, or private: check it, or run `hf auth login`") from None
    except errors.LocalTokenNotFoundError:
        raise UserError(f"{option} {name} needs a Hub token: run `hf auth login` or set HF_TOKEN") from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status in (401, 403):
            raise UserError(f"{option} {name}: the Hub refuses this token (HTTP {status}): check its rights") from None
        raise Unfinished(f"{option} {name}: the Hub answered HTTP {status}; run the same command again") from None
    except (errors.LocalEntryNotFoundError, ConnectionError, TransportError) as error:
        raise Unfinished(
            f"{option} {name} is not in the cache and the Hub cannot be reached ({first_line(error)}); "
            "run the same command again"
        ) from None


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or the name of its class for an empty message."""
    return (str(error) or type(error).__name__).splitlines()[0]


def _folder_state(folder: Path) -> tuple[tuple[str, int, int], ...]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return tuple((str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns) for path in files)


@cache
def _folder_hash(folder: Path, state: Sequence[tuple[str, int, int]]) -> str:
    lines = "".join(f"{name} {sha256_of(folder / name)}\n" for name, _, _ in state)
    return hashlib.sha256(lines.encode()).hexdigest()

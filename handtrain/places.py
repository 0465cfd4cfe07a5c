"""DATASET, MODEL and --to as a user writes them: a folder, or `hf:USER/NAME[@REVISION]` on the Hugging Face Hub."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from handdata.errors import Unfinished, UserError
from handdata.resources import shipped_model

# No pickle (.bin, .ckpt), no half-precision or non-EMA twin of the same weights, no whole model in one file at the top.
COMPONENT_FILES = ["*.json", "*.txt", "*.safetensors"]
_FETCHED = ["*.json", "*.txt", "*/*.safetensors", "README.md"]
OTHER_WEIGHTS = ["*.fp16.*", "*.bf16.*", "*non_ema*"]


@dataclass(frozen=True)
class HubName:
    """A repository on the Hub, at a branch, tag or commit (None: the main branch)."""

    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"hf:{self.repo}" + (f"@{self.revision}" if self.revision else "")


Place = Path | HubName


def parse(text: str, option: str, new: bool = False) -> Place:
    """Read a place from a command line. A folder must exist unless it is a `new` one.

    Raises `UserError` naming the option for a malformed Hub name or a folder that is not there.
    """
    if not text.startswith("hf:"):
        return Path(text) if new else require_folder(Path(text), option)
    name = re.fullmatch(r"hf:([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", text, flags=re.ASCII)
    if not name:
        raise UserError(f"{option} {text} is not a Hub name: write hf:USER/NAME or hf:USER/NAME@REVISION")
    return HubName(name[1], name[2])


def parse_model(text: str, option: str) -> Place:
    """Read a model's place: what `parse` reads, or the name of a model that hand1000 ships.

    Raises `UserError` as `parse` does.
    """
    shipped = None if Path(text).is_dir() else shipped_model(text)
    return shipped or parse(text, option)


def require_folder(folder: Path, option: str) -> Path:
    """Return the folder, or raise `UserError` that names the option."""
    if not folder.is_dir():
        raise UserError(f"{option} {folder} is not a folder: a repository on the Hub is written hf:USER/NAME")
    return folder


def resolve(name: HubName, kind: str, option: str) -> HubName:
    """Return the same repository at its commit, asked of the Hub. `kind` is `model` or `dataset`."""
    from huggingface_hub import HfApi

    with hub_errors(name, option):
        api = HfApi()
        info = api.model_info if kind == "model" else api.dataset_info
        return HubName(name.repo, info(name.repo, revision=name.revision).sha)


def fetch_model(place: Place, option: str) -> tuple[Path, HubName | None]:
    """Return a local folder with the model's files, and the repository at its commit if it came from the Hub."""
    if isinstance(place, Path):
        return require_folder(place, option), None
    from huggingface_hub import snapshot_download

    commit = resolve(place, "model", option)
    with hub_errors(place, option):
        folder = snapshot_download(
            commit.repo, revision=commit.revision, allow_patterns=_FETCHED, ignore_patterns=OTHER_WEIGHTS
        )
    return Path(folder), commit


@contextmanager
def hub_errors(name: HubName, option: str) -> Iterator[None]:
    """Turn what the Hub's library raises into one sentence: `UserError` for a mistake, `Unfinished` for a failure."""
    from httpx2 import TransportError
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError:
        raise UserError(
            f"{option} {name} is gated: accept its terms on the Hub and log in with `hf auth login`"
        ) from None
    except errors.RepositoryNotFoundError:
        raise UserError(f"{option} {name} is not on the Hub, or private: check it, or run `hf auth login`") from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{option} {name}: the repository has no revision {name.revision}") from None
    except errors.LocalTokenNotFoundError:
        raise UserError(f"{option} {name} needs a Hub token: run `hf auth login` or set HF_TOKEN") from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status in (401, 403):
            raise UserError(f"{option} {name}: the Hub refuses this token (HTTP {status}): check its rights") from None
        raise Unfinished(f"{option} {name}: the Hub answered HTTP {status}; run the same command again") from None
    except (errors.LocalEntryNotFoundError, ConnectionError, TransportError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise Unfinished(f"{option} {name}: the Hub cannot be reached ({reason}); run the same command again") from None

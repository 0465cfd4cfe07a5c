"""Names, commits and snapshots of the Hugging Face Hub, and its library's errors as sentences.

A place is a folder, or `hf:USER/NAME[@REVISION]` on the Hub. A model can also be given by the name of a shipped one.
A full commit, and files of a commit that are in the Hub's cache, need no request. A branch is looked up on the Hub; if
that is offline or down, the commit that the cache holds for it is used.
"""

import hashlib
import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

from handdata.errors import Unfinished, UserError, first_line
from handdata.files import sha256_of, write_text
from handdata.limits.weights import require_safetensors
from handdata.readers import check_secret, read_secret
from handdata.shipped import shipped_model
from handdata.web.client import require_proxies

# These patterns leave out pickles (.bin, .ckpt), half-precision and non-EMA copies of the same weights, and single-file
# models at the top level.
OTHER_WEIGHTS = ["*.fp16.*", "*.bf16.*", "*non_ema*"]
_PIPELINE_FILES = ["*.json", "*.txt", "*/*.safetensors", "fusion.safetensors", "README.md"]
_SMALL_FILES = ["*.json", "*.txt", "*.model", "*.jinja"]
_COMMIT = re.compile("[0-9a-f]{40}")
_BUSY = (408, 425, 429)  # with 5xx, the answers of a Hub that is down for now

Kind = Literal["model", "dataset"]


@dataclass(frozen=True)
class HubName:
    """A repository on the Hub, at a branch, tag or commit (None: the main branch)."""

    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"hf:{self.repo}" + (f"@{self.revision}" if self.revision else "")


Place = Path | HubName


def parse(text: str, option: str) -> Place:
    """Return the existing place that a user wrote.

    Raises `UserError` naming the option for a malformed Hub name or a missing folder.
    """
    if not text.startswith("hf:"):
        return _of_page(text) or require_folder(Path(text), option)
    name = re.fullmatch(r"hf:([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", text, flags=re.ASCII)
    if not name:
        raise UserError(f"{option} {text} is not a Hub name: write hf:USER/NAME or hf:USER/NAME@REVISION")
    return HubName(name[1], name[2])


def _of_page(address: str) -> HubName | None:
    """Return the repository of a page of the Hub, such as `publish` prints; None for any other text."""
    pattern = r"(https?://[^/]+)/(?:datasets/)?([\w-][\w.-]*/[\w.-]+)(?:/tree/([\w./-]+?))?/?"
    page = re.fullmatch(pattern, address, re.ASCII)
    if not page:
        return None
    from huggingface_hub import constants

    hub = page[1] in (constants.ENDPOINT.rstrip("/"), "https://huggingface.co", "https://hf.co")
    return HubName(page[2], page[3]) if hub else None


def parse_new(to: str | Path | HubName, option: str) -> Place:
    """Return the place to publish to. `USER/NAME` alone could mean the Hub or a folder.

    Raises `UserError` for a new folder of that form, which a user writes `./USER/NAME`, and for an address of the Hub.
    """
    if not isinstance(to, str):
        return to
    if to.startswith("hf:"):
        return parse(to, option)
    if re.match(r"hf:|\w+://|(www\.)?(huggingface\.co|hf\.co)/", to, re.IGNORECASE):
        raise UserError(f"{option} {to} is not a folder: a repository on the Hub is written hf:USER/NAME")
    if re.fullmatch(r"[\w-][\w.-]*/+[\w.-]+(@[\w./-]+)?/*", to, re.ASCII):
        if not Path(to).is_dir():
            raise UserError(
                f"{option} {to} is a name on the Hub or a new folder: write hf:{to.rstrip('/')} or ./{to.rstrip('/')}"
            )
        print(f"hand1000: {option} {to} is a folder of this machine; hf:{to} would be the Hub", file=sys.stderr)
    return Path(to)


def parse_model(text: str, option: str) -> Place:
    """Return the place of a model: as `parse`, the name of a shipped model, a run's folder, or a .safetensors file.

    Raises `UserError` as `parse` does, for a run without a model, and for a file with a pickle.
    """
    if Path(text).is_file():
        return require_safetensors(Path(text), option)
    place = (None if Path(text).is_dir() else shipped_model(text)) or parse(text, option)
    if not isinstance(place, Path) or (place / "model_index.json").is_file():
        return place
    if (place / "model" / "model_index.json").is_file():
        return place / "model"
    if (place / "run.json").is_file() and (place / "log.jsonl").is_file():
        raise UserError(f"{option} {text} is a run without a model: finish it with the same `handtrain train` command")
    return place


def parse_dataset(text: str, option: str) -> Place:
    """Return the place of a dataset that a user wrote: as `parse`, or the folder of a build, for its dataset.

    Raises `UserError` as `parse` does, and for a build without a dataset.
    """
    place = parse(text, option)
    if not isinstance(place, Path) or (place / "README.md").is_file() or not (place / "recipe.toml").is_file():
        return place
    if not (place / "dataset" / "README.md").is_file():
        raise UserError(f"{option} {text} is a build without a dataset: run `handdata assemble {text}`")
    return place / "dataset"


def require_folder(folder: Path, option: str) -> Path:
    """Return the folder, or raise `UserError` that names the option."""
    if not folder.is_dir():
        raise UserError(f"{option} {folder} is not a folder: a repository on the Hub is written hf:USER/NAME")
    return folder


def at_commit(name: HubName, kind: Kind, option: str) -> HubName:
    """Return the same repository at the commit of its branch or tag; a full commit needs no request.

    If the Hub is offline or down, the commit in the cache is used. Raises `Unfinished` or `UserError` if the cache has
    none, and for a repository or revision that the Hub does not have.
    """
    from huggingface_hub import HfApi

    if name.revision and _COMMIT.fullmatch(name.revision):
        return name
    with hub_errors(name, option):
        try:
            commit = str(HfApi().repo_info(name.repo, repo_type=kind, revision=name.revision).sha)
        except Exception as error:
            cached = _read_commit(name, kind)
            if not is_down(error) or not cached:
                raise
            _note_unreachable()
            return replace(name, revision=cached)
    _keep_commit(name, kind, commit)
    return replace(name, revision=commit)


def snapshot(name: HubName, kind: Kind, option: str, patterns: Sequence[str], ignored: Sequence[str] = ()) -> Path:
    """Return the folder in the Hub's cache with a commit's files of these patterns; missing files are fetched.

    No request is sent if the cache has all of them. Raises `Unfinished` or `UserError` if the cache lacks some and
    the Hub cannot be reached.
    """
    from huggingface_hub import HfApi, get_cached_repo_tree, snapshot_download
    from huggingface_hub.errors import CachedRepoTreeNotFoundError, LocalEntryNotFoundError

    place: dict[str, str | None] = {"repo_id": name.repo, "repo_type": kind, "revision": name.revision}
    wanted: dict[str, list[str]] = {"allow_patterns": list(patterns), "ignore_patterns": list(ignored)}
    folder = None
    with hub_errors(name, option):
        try:
            folder = snapshot_download(**place, **wanted, local_files_only=True)  # type: ignore[call-overload]
            get_cached_repo_tree(**place)  # type: ignore[arg-type]
            return Path(folder)
        except (LocalEntryNotFoundError, CachedRepoTreeNotFoundError):  # incomplete, or it cannot be known
            pass
        try:
            HfApi().repo_info(**place)  # type: ignore[arg-type]  # one request, which is not repeated
            return Path(snapshot_download(**place, **wanted))  # type: ignore[call-overload]
        except Exception as error:
            if folder is None or not is_down(error):
                raise
            _note_unreachable()
            return Path(folder)


def pipeline_folder(place: Place, option: str) -> tuple[Path, HubName | None]:
    """Return a local folder with a diffusers model, and the repository at its commit if it came from the Hub."""
    if isinstance(place, Path):
        return require_folder(place, option), None
    commit = at_commit(place, "model", option)
    return snapshot(commit, "model", option, _PIPELINE_FILES, OTHER_WEIGHTS), commit


def model_folder(model: str, revision: str, option: str = "--model") -> tuple[Path, str]:
    """Return the folder of a transformers model and its commit; for a folder or a shipped model, a hash of its files.

    `model` is a folder, a shipped name, or USER/NAME on the Hub, with or without `hf:`. Files that are not in the
    Hub's cache are fetched, weights as safetensors if the model has them. Raises `UserError` if the model does
    not exist or is gated, `Unfinished` if the Hub cannot be reached.
    """
    commit = model_commit(model, revision, option)
    folder = local_model(model) or _transformers_folder(HubName(_named(model, revision).repo, commit), option)
    return folder, commit


def model_commit(model: str, revision: str, option: str = "--model") -> str:
    """Return the commit of a transformers model as `model_folder` does, without its files: a commit is its own."""
    folder = local_model(model)
    if folder:
        return _folder_hash(folder, _folder_state(folder))
    return str(_commit_of(_named(model, revision), option).revision)


def local_model(model: str) -> Path | None:
    """Return the folder of a local or shipped model, None for one on the Hub."""
    return Path(model) if Path(model).is_dir() else shipped_model(model)


def _named(model: str, revision: str) -> HubName:
    name, _, at = model.removeprefix("hf:").partition("@")
    return HubName(name, at or revision)


@cache
def _commit_of(name: HubName, option: str) -> HubName:
    return at_commit(name, "model", option)


@cache
def _transformers_folder(name: HubName, option: str) -> Path:
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    folder = snapshot(name, "model", option, _SMALL_FILES)
    try:
        files = [file.path for file in get_cached_repo_tree(name.repo, revision=name.revision)]
    except CachedRepoTreeNotFoundError:  # an offline cache without a listing
        return folder
    weights = "*.safetensors" if any(file.endswith(".safetensors") for file in files) else "*.bin"
    return snapshot(name, "model", option, [*_SMALL_FILES, weights])


def _commit_file(name: HubName, kind: Kind) -> Path:
    from huggingface_hub import constants

    folder = f"{kind}s--" + name.repo.replace("/", "--")
    return Path(constants.HF_HUB_CACHE).expanduser() / folder / "refs" / (name.revision or "main")


def _read_commit(name: HubName, kind: Kind) -> str | None:
    """Return the commit that the Hub's cache holds for a branch or tag."""
    try:
        commit = _commit_file(name, kind).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    return commit if _COMMIT.fullmatch(commit) else None


def _keep_commit(name: HubName, kind: Kind, commit: str) -> None:
    """Store the commit of a branch as the Hub's library does, which leaves out a branch that it did not look up."""
    if _read_commit(name, kind) != commit and _COMMIT.fullmatch(commit):
        try:
            write_text(_commit_file(name, kind), commit)
        except OSError as error:
            print(f"hand1000: the Hub's cache cannot be written ({error.strerror})", file=sys.stderr)


def is_down(error: Exception) -> bool:
    """Return whether an error means that the Hub is offline or down, and not that it refused."""
    from httpx2 import TransportError
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code if error.response is not None else 500
        return status >= 500 or status in _BUSY
    return isinstance(error, TransportError | ConnectionError | LocalEntryNotFoundError | json.JSONDecodeError)


@cache
def _note_unreachable() -> None:
    """Print a line, once in a process, unless HF_HUB_OFFLINE makes it known."""
    from huggingface_hub import constants

    if not constants.is_offline_mode():
        print("hand1000: the Hub cannot be reached: models and datasets are read from its cache", file=sys.stderr)


def hub_token() -> str | None:
    """Return the user's token of the Hub. Raises `UserError`, without it, for one that no request can carry."""
    from huggingface_hub import constants, get_token

    for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        read_secret(variable)
    try:
        token = get_token()
    except UnicodeDecodeError:
        raise UserError("the file with the Hub's token is not text: run `hf auth login` again") from None
    return check_secret(token, f"the Hub's token in {constants.HF_TOKEN_PATH}") if token else None


@contextmanager
def hub_errors(name: HubName, option: str) -> Iterator[None]:
    """Convert errors of the Hub's library into one sentence: `UserError` for a mistake, `Unfinished` for a failure."""
    from huggingface_hub import constants, errors

    if not constants.is_offline_mode():
        hub_token()
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
    except Exception as error:
        if not constants.is_offline_mode():
            require_proxies()
        if not is_down(error):
            raise
        if constants.is_offline_mode():
            raise UserError(
                f"{option} {name} needs the Hub ({constants.HF_HUB_CACHE} lacks it or a part of it), and "
                "HF_HUB_OFFLINE is set: unset it for this command, or name a folder"
            ) from None
        raise Unfinished(
            f"{option} {name} is not in the cache and the Hub cannot be reached ({first_line(error)}); "
            "run the same command again"
        ) from None


def _folder_state(folder: Path) -> tuple[tuple[str, int, int], ...]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return tuple((str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns) for path in files)


@cache
def _folder_hash(folder: Path, state: Sequence[tuple[str, int, int]]) -> str:
    lines = "".join(f"{name} {sha256_of(folder / name)}\n" for name, _, _ in state)
    return hashlib.sha256(lines.encode()).hexdigest()

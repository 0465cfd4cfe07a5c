"""Find the files of a model that transformers loads: in a folder, shipped with hand1000, or on the Hub at a commit."""

import hashlib
from functools import cache
from pathlib import Path

from handdata.errors import Unfinished, UserError
from handdata.resources import shipped_model


def resolve(model: str, revision: str, option: str = "--model") -> tuple[Path, str]:
    """Return the folder of a model's files and the commit it stands for (of a folder or a shipped model: a hash).

    Files that are not in the Hub's cache are fetched, weights as safetensors where the model has them. Raises
    `UserError` where the model is not there or gated, `Unfinished` where the Hub does not answer.
    """
    folder = local_folder(model)
    if folder:
        return folder, _folder_hash(folder, _folder_state(folder))
    return _snapshot(model, revision, option)


def local_folder(model: str) -> Path | None:
    """Return the folder of a model that needs no Hub: its own, or that of a shipped one."""
    return Path(model) if Path(model).is_dir() else shipped_model(model)


@cache
def _snapshot(model: str, revision: str, option: str) -> tuple[Path, str]:
    import httpx2
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        try:
            about = HfApi().model_info(model, revision=revision)  # one request, which the library does not repeat
        except (httpx2.TransportError, ConnectionError):  # no network, or HF_HUB_OFFLINE: what is in the cache will do
            folder = Path(snapshot_download(model, revision=revision, local_files_only=True))
        else:
            files = [file.rfilename for file in about.siblings or ()]
            weights = "*.safetensors" if any(name.endswith(".safetensors") for name in files) else "*.bin"
            folder = Path(snapshot_download(model, revision=revision, allow_patterns=[*_SMALL_FILES, weights]))
    except HFValidationError:
        raise UserError(f"{option} {model} is neither a folder nor a name on the Hub (USER/NAME)") from None
    except GatedRepoError:
        raise UserError(
            f"{model} is gated: accept its licence on its page on the Hub, then log in with `hf auth login`"
        ) from None
    except RevisionNotFoundError:
        raise UserError(f"{model} has no revision '{revision}': see --revision") from None
    except RepositoryNotFoundError:
        raise UserError(
            f"the Hub knows no model {model} that you may read: check {option}, or `hf auth login`"
        ) from None
    except (httpx2.TransportError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise Unfinished(f"{model} is not in the cache and the Hub does not answer ({_first_line(error)})") from None
    return folder, folder.name


_SMALL_FILES = ["*.json", "*.txt", "*.model", "*.jinja"]


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _folder_state(folder: Path) -> tuple[tuple[str, int, int], ...]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return tuple((str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns) for path in files)


@cache
def _folder_hash(folder: Path, state: tuple[tuple[str, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for name, _, _ in state:
        with (folder / name).open("rb") as file:
            digest.update(f"{name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()

"""Facts on a model of the Hub before its weights are fetched: files and sizes, licence, gate."""

from dataclasses import dataclass, field
from functools import cache

from handdata.huggingface import HubName, hub_errors, is_down


@dataclass(frozen=True)
class RepoFacts:
    """A repository at one commit, as the Hub's API describes it."""

    name: HubName  # with the commit
    licence: str | None  # as the author states it, such as `bsd-3-clause`
    gated: bool  # the Hub serves the files only to users who accepted its terms
    sizes: dict[str, int | None] = field(hash=False)  # bytes by path
    hashes: dict[str, str] = field(hash=False)  # sha256 by path, for files in LFS


@cache
def repo_facts(name: HubName, option: str) -> RepoFacts | None:
    """Return the facts on a model, None if the Hub is offline or down.

    Raises `UserError` for a repository or revision that the Hub does not have, `Unfinished` for an unexpected answer.
    """
    from huggingface_hub import HfApi, constants

    if constants.is_offline_mode():
        return None
    with hub_errors(name, option):
        try:
            info = HfApi().model_info(name.repo, revision=name.revision, files_metadata=True)
        except Exception as error:
            if not is_down(error):
                raise
            return None
    files = info.siblings or []
    return RepoFacts(
        HubName(name.repo, info.sha),
        " ".join(str(info.card_data["license"]).split()) if info.card_data and info.card_data.get("license") else None,
        bool(info.gated),
        {file.rfilename: file.size for file in files},
        {file.rfilename: file.lfs.sha256 for file in files if file.lfs},
    )


def require_access(name: HubName, option: str) -> None:
    """Raise `UserError` for a gated model whose terms the user has not accepted; without the Hub nothing is known."""
    from huggingface_hub import HfApi

    facts = repo_facts(name, option)
    if facts is not None and facts.gated:
        with hub_errors(name, option):
            HfApi().auth_check(name.repo)

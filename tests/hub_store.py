"""The state of the tests' Hub: files, commits, repositories and users."""

import dataclasses
import hashlib
import time

LFS_SUFFIXES = (".gguf", ".parquet", ".jpg", ".png", ".safetensors", ".zip", ".bin")
ATTRIBUTES = b"".join(b"*%s filter=lfs diff=lfs merge=lfs -text\n" % suffix.encode() for suffix in LFS_SUFFIXES)


@dataclasses.dataclass(frozen=True)
class Blob:
    sha256: str
    size: int
    lfs: bool
    git: str  # git's own id of the file, or of its LFS pointer


@dataclasses.dataclass(frozen=True)
class Commit:
    sha: str
    title: str
    parent: str | None
    files: dict[str, Blob]


@dataclasses.dataclass
class Repo:
    kind: str
    name: str  # owner/name
    private: bool
    gated: bool = False  # only users in `accepted` may read the files
    licence: str | None = None
    accepted: set[str] = dataclasses.field(default_factory=set)
    commits: dict[str, Commit] = dataclasses.field(default_factory=dict)
    branches: dict[str, str] = dataclasses.field(default_factory=dict)

    def commit(self, branch: str, title: str, files: dict[str, Blob], parent: str | None) -> Commit:
        seed = f"{self.name} {title} {parent} {sorted(files)} {len(self.commits)} {time.time_ns()}"
        commit = Commit(hashlib.sha1(seed.encode()).hexdigest(), title, parent, files)
        self.commits[commit.sha] = commit
        self.branches[branch] = commit.sha
        return commit


@dataclasses.dataclass
class User:
    name: str
    role: str = "write"  # or read
    expired: bool = False


class Refusal(Exception):
    """An answer that is an error: status, the Hub's error code and words."""

    def __init__(self, status: int, words: str, code: str | None = None) -> None:
        super().__init__(words)
        self.status, self.words, self.code = status, words, code


def make_blob(sha: str, size: int, lfs: bool, data: bytes = b"") -> Blob:
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha}\nsize {size}\n".encode()
    content = pointer if lfs else data
    return Blob(sha, size, lfs, hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest())

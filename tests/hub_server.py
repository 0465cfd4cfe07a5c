"""A small Hub on this machine, for the unmodified `huggingface_hub` and `datasets` clients.

It keeps repositories with commits and branches, takes uploads over git-LFS's batch protocol (also in parts), answers
`resolve` with ranges and redirects large files to a second host name as the Hub's CDN does, knows users and tokens, and
fails on purpose. Clients need HF_ENDPOINT=<server.url> and HF_HUB_DISABLE_XET=1 (it speaks LFS, not Xet).

In a test:      with HubServer() as hub: ... hub.fail("PUT /lfs/", "drop")
By hand:        python -m tests.hub_server [--port 8000]
"""

import argparse
import functools
import hashlib
import re
import tempfile
import threading
import time
import types
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.hub_routes import Answers
from tests.hub_store import LFS_SUFFIXES, Blob, Commit, Repo, User, make_blob


class HubServer:
    """The Hub: start it as a context; `url` is the value for HF_ENDPOINT.

    `tokens` maps tokens to users; `hf_tester` may write to `tester/...`, `hf_reader` may only read. `log` holds
    "METHOD path status" of all requests. `part_size`: larger LFS files are uploaded in parts of that many bytes.
    """

    def __init__(self, port: int = 0, part_size: int = 20_000_000, page: int = 1000) -> None:
        self.tokens = {"hf_tester": User("tester"), "hf_reader": User("reader", "read")}
        self.repos: dict[tuple[str, str], Repo] = {}
        self.log: list[str] = []
        self.faults: list[list[Any]] = []
        self.part_size, self.page = part_size, page
        self.lock = threading.RLock()
        self._folder = tempfile.TemporaryDirectory(prefix="hub-server-")
        self.blobs = Path(self._folder.name)
        self._http = ThreadingHTTPServer(("127.0.0.1", port), functools.partial(Answers, self))
        self._http.daemon_threads = True
        self.port = self._http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.cdn = f"http://localhost:{self.port}"  # another host name: clients must not send their token there

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._folder.cleanup()

    def environment(self, home: Path, token: str | None = "hf_tester") -> dict[str, str]:
        """Return the variables with which a client process uses this Hub and a cache of its own."""
        variables = {"HF_ENDPOINT": self.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(home)}
        variables |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1,localhost"}
        return variables | ({"HF_TOKEN": token} if token else {})

    def adopt(self, monkeypatch: Any, home: Path, token: str | None = "hf_tester") -> None:
        """Let the Hub libraries of this process use this Hub; their addresses are fixed at import, hence patches."""
        for name, value in self.environment(home, token).items():
            monkeypatch.setenv(name, value)
        constants = {
            "ENDPOINT": self.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": self.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_TOKEN_PATH": str(home / "token"),
        }
        for name, value in constants.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        monkeypatch.setattr("huggingface_hub.utils._http.time", _NO_PAUSES)

    def fail(self, request: str, fault: int | str, times: int = 1, after: int = 0) -> None:
        """Let requests whose "METHOD path" matches the pattern fail, `times` times, after `after` went well.

        `fault` is a status code, or "drop" (the connection breaks while the request is read), "lost" (it is carried
        out, the answer is lost), "cut" (half of the answer's body), "wrong" (another byte in the uploaded body).
        """
        self.faults.append([re.compile(request), fault, times, after])

    def files(self, name: str, revision: str = "main", kind: str = "dataset") -> dict[str, bytes]:
        """Return the files of a repository by path."""
        repo = self.repos[kind, name]
        commit = repo.commits[repo.branches.get(revision, revision)]
        return {path: (self.blobs / blob.sha256).read_bytes() for path, blob in sorted(commit.files.items())}

    def history(self, name: str, revision: str = "main", kind: str = "dataset") -> list[Commit]:
        """Return the commits of a branch, newest first."""
        repo, commits = self.repos[kind, name], []
        sha: str | None = repo.branches.get(revision)
        while sha:
            commits.append(repo.commits[sha])
            sha = commits[-1].parent
        return commits

    def host(self, name: str, files: Path | dict[str, bytes], gated: bool = False, licence: str | None = None) -> Repo:
        """Put a model with the files of a folder, or with these, on the Hub; return its repository."""
        if isinstance(files, Path):
            paths = [path for path in files.rglob("*") if path.is_file()]
            files = {path.relative_to(files).as_posix(): path.read_bytes() for path in paths}
        repo = Repo("model", name, private=False, gated=gated, licence=licence)
        blobs = {path: self.store(data, path.endswith(LFS_SUFFIXES)) for path, data in files.items()}
        repo.commit("main", "files", blobs, None)
        self.repos["model", name] = repo
        return repo

    def store(self, data: bytes, lfs: bool) -> Blob:
        sha = hashlib.sha256(data).hexdigest()
        (self.blobs / sha).write_bytes(data)
        return make_blob(sha, len(data), lfs, data)

    def next_fault(self, request: str) -> int | str | None:
        with self.lock:
            for entry in self.faults:
                if entry[0].search(request):
                    if entry[3] > 0:
                        entry[3] -= 1
                    elif entry[2] > 0:
                        entry[2] -= 1
                        return entry[1]
        return None


# replaces the module `time` in the client, whose pauses between tries then take no time
_NO_PAUSES = types.SimpleNamespace(time=time.time, monotonic=time.monotonic, sleep=lambda seconds: None)


def main() -> None:
    """Run the server until interrupted; print the variables with which a client uses it."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    with HubServer(parser.parse_args().port) as hub:
        print(f"export HF_ENDPOINT={hub.url} HF_HUB_DISABLE_XET=1 HF_TOKEN=hf_tester   # user: tester", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print("stopped")


if __name__ == "__main__":
    main()

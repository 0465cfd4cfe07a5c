"""One connection to the tests' Hub: requests in, faults on purpose, answers out, and who may do what."""

import json
import re
import urllib.parse
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any, ClassVar

from tests.hub_store import Blob, Commit, Refusal, Repo, User

if TYPE_CHECKING:
    from tests.hub_server import HubServer


class Connection(BaseHTTPRequestHandler):
    """Serves the routes that a subclass lists: (method, pattern of the path, method's function)."""

    routes: ClassVar[list] = []
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two writes; without this each answer waits 40 ms

    def __init__(self, hub: "HubServer", *arguments: Any) -> None:
        self.hub = hub
        super().__init__(*arguments)

    def log_message(self, *_: object) -> None:
        pass

    def _serve(self) -> None:
        place = urllib.parse.urlsplit(self.path)
        self.route, self.query = urllib.parse.unquote(place.path), dict(urllib.parse.parse_qsl(place.query))
        self.words = f"{self.command} {self.route}"
        fault = self.hub.next_fault(self.words)
        length = int(self.headers.get("Content-Length") or 0)
        if fault == "drop":
            self.rfile.read(length // 2)
            return self._break("dropped")
        self.body = self._chunks() if self.headers.get("Transfer-Encoding") == "chunked" else self.rfile.read(length)
        if fault == "wrong" and self.body:
            self.body = self.body[:-1] + bytes([self.body[-1] ^ 1])
        self.fault = fault
        try:
            if isinstance(fault, int):
                raise Refusal(fault, {429: "Too Many Requests", 500: "Internal Error"}.get(fault, "Refused on purpose"))
            self._find_route()
        except Refusal as refusal:
            headers = {"X-Error-Message": refusal.words} | ({"X-Error-Code": refusal.code} if refusal.code else {})
            headers |= {"Retry-After": "0"} if refusal.status == 429 else {}
            self._answer({"error": refusal.words}, refusal.status, headers)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    def _find_route(self) -> None:
        for method, pattern, function in self.routes:
            match = re.fullmatch(pattern, self.route)
            if match and method == self.command.replace("HEAD", "GET"):
                return function(self, **match.groupdict())
        raise Refusal(404, f"no such route: {self.words}")

    def _chunks(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _break(self, word: str) -> None:
        self.hub.log.append(f"{self.words} {word}")
        self.close_connection = True
        self.connection.shutdown(2)

    def _answer(self, body: Any = None, status: int = 200, headers: dict[str, str] | None = None) -> None:
        if self.fault == "lost":
            self._break("lost")
            return
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.hub.log.append(f"{self.words} {status}")
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if self.fault == "cut" else data)
        if self.fault == "cut":
            self.close_connection = True

    def _json(self) -> Any:
        return json.loads(self.body or b"{}")

    # the user, the repository and the file of a request

    def _user(self) -> User | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if not token:
            return None
        user = self.hub.tokens.get(token)
        if user is None:
            raise Refusal(401, "Invalid credentials in Authorization header")
        if user.expired:
            raise Refusal(401, "Invalid credentials in Authorization header: the access token is expired")
        return user

    def _repo(self, kind: str, name: str, write: bool = False) -> Repo:
        user, repo = self._user(), self.hub.repos.get((kind, name))
        hidden = repo is None or (repo.private and not (user and name.startswith(f"{user.name}/")))
        if hidden:
            raise Refusal(
                *(404, "Repository not found") if user else (401, "Invalid username or password."), "RepoNotFound"
            )
        if write:
            self._require_writer(name.split("/")[0])
        return repo

    def _require_writer(self, owner: str) -> None:
        user = self._user()
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        if user.role != "write" or user.name != owner:
            raise Refusal(403, f'You don\'t have the rights to write to "{owner}"')

    def _require_accepted(self, repo: Repo) -> None:
        user = self._user()
        if repo.gated and not (user and user.name in repo.accepted):
            raise Refusal(403 if user else 401, f"Access to model {repo.name} is restricted", "GatedRepo")

    def _commit(self, repo: Repo, revision: str) -> Commit:
        sha = repo.branches.get(revision, revision)
        if sha not in repo.commits:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return repo.commits[sha]

    def _send_file(self, blob: Blob, headers: dict[str, str]) -> None:
        data = (self.hub.blobs / blob.sha256).read_bytes()
        span = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not span or not any(span.groups()):
            return self._answer(data, headers={**headers, "Accept-Ranges": "bytes"})
        first, last = span.groups()
        start = int(first) if first else max(0, len(data) - int(last))
        end = min(int(last), len(data) - 1) if first and last else len(data) - 1
        if start >= len(data):
            raise Refusal(416, "Range Not Satisfiable")
        headers = {**headers, "Content-Range": f"bytes {start}-{end}/{len(data)}", "Accept-Ranges": "bytes"}
        return self._answer(data[start : end + 1], 206, headers)

"""The answers of the tests' Hub on each of the Hub's routes."""

import base64
import dataclasses
import hashlib
import json
import urllib.parse
from typing import Any

from tests.hub_http import Connection
from tests.hub_store import ATTRIBUTES, LFS_SUFFIXES, Blob, Refusal, Repo, make_blob

KINDS = {"datasets": "dataset", "models": "model"}


class Answers(Connection):
    """All routes."""

    # accounts and repositories

    def whoami(self) -> None:
        user = self._user()
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        token = {"accessToken": {"displayName": "test", "role": user.role}, "type": "access_token"}
        self._answer({"type": "user", "name": user.name, "orgs": [], "auth": token})

    def validate_yaml(self) -> None:
        content = self._json()["content"]
        errors = [] if content.startswith("---\n") else [{"message": "no metadata"}]
        self._answer({"errors": errors, "warnings": []}, 400 if errors else 200)

    def create(self) -> None:
        request, user = self._json(), self._user()
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        owner, kind = request.get("organization") or user.name, request.get("type", "model")
        self._require_writer(owner)
        name = f"{owner}/{request['name']}"
        url = f"{self.hub.url}/{'datasets/' if kind == 'dataset' else ''}{name}"
        with self.hub.lock:
            if (kind, name) in self.hub.repos:
                return self._answer({"error": "You already created this repo", "url": url}, 409)
            repo = Repo(kind, name, request.get("visibility") == "private" or bool(request.get("private")))
            repo.commit("main", "initial commit", {".gitattributes": self.hub.store(ATTRIBUTES, lfs=False)}, None)
            self.hub.repos[kind, name] = repo
        return self._answer({"url": url, "name": name, "id": name})

    def delete(self) -> None:
        request = self._json()
        name = f"{request.get('organization') or self._user().name}/{request['name']}"
        self._repo(request.get("type", "model"), name, write=True)
        del self.hub.repos[request.get("type", "model"), name]
        self._answer({})

    def settings(self, kind: str, name: str) -> None:
        repo = self._repo(KINDS[kind], name, write=True)
        repo.private = self._json().get("visibility") == "private"
        self._answer({"private": repo.private})

    def info(self, kind: str, name: str, revision: str = "main") -> None:
        repo = self._repo(KINDS[kind], name)
        commit = self._commit(repo, revision)
        siblings = [
            {"rfilename": path, "size": blob.size, "blobId": blob.git}
            | ({"lfs": {"sha256": blob.sha256, "size": blob.size, "pointerSize": 134}} if blob.lfs else {})
            for path, blob in commit.files.items()
        ]
        facts = {"id": name, "author": name.split("/")[0], "sha": commit.sha, "private": repo.private, "tags": []}
        facts |= {"cardData": {"license": repo.licence}} if repo.licence else {}
        gated = "auto" if repo.gated else False
        self._answer({**facts, "_id": name, "gated": gated, "disabled": False, "siblings": siblings})

    def auth_check(self, kind: str, name: str) -> None:
        self._require_accepted(self._repo(KINDS[kind], name))
        self._answer({})

    def refs(self, kind: str, name: str) -> None:
        repo = self._repo(KINDS[kind], name)
        heads = [{"name": b, "ref": f"refs/heads/{b}", "targetCommit": sha} for b, sha in repo.branches.items()]
        self._answer({"branches": heads, "converts": [], "tags": []})

    def branch(self, kind: str, name: str, revision: str) -> None:
        repo = self._repo(KINDS[kind], name, write=True)
        if revision in repo.branches:
            raise Refusal(409, "Reference already exists")
        repo.branches[revision] = self._commit(repo, self._json().get("startingPoint", "main")).sha
        self._answer({})

    def commits(self, kind: str, name: str, revision: str) -> None:
        self._commit(self._repo(KINDS[kind], name), revision)
        chain = self.hub.history(name, revision, KINDS[kind])
        date = "2026-01-01T00:00:00.000Z"
        self._answer([{"id": c.sha, "title": c.title, "message": "", "date": date, "authors": []} for c in chain])

    def squash(self, kind: str, name: str, revision: str) -> None:
        repo = self._repo(KINDS[kind], name, write=True)
        files = self._commit(repo, revision).files
        repo.commits = {}
        repo.commit(revision, self._json()["message"], files, None)
        self._answer({})

    # reading

    def tree(self, kind: str, name: str, revision: str, path: str | None = None) -> None:
        repo = self._repo(KINDS[kind], name)
        files = self._commit(repo, revision).files
        under = f"{path.strip('/')}/" if path and path.strip("/") else ""
        rows: dict[str, dict] = {}
        for place, blob in sorted(files.items()):
            if not place.startswith(under):
                continue
            parts = place[len(under) :].split("/")
            folders = len(parts) - 1 if self.query.get("recursive", "").lower() == "true" else min(1, len(parts) - 1)
            for depth in range(1, folders + 1):
                folder = under + "/".join(parts[:depth])
                rows[folder] = _folder_row(folder)
            if folders == len(parts) - 1 and (len(parts) == 1 or self.query.get("recursive", "").lower() == "true"):
                rows[place] = _file_row(place, blob)
        if under and not rows:
            raise Refusal(404, f"{path} does not exist on {revision}", "EntryNotFound")
        start = int(self.query.get("cursor", 0))
        headers = {}
        if start + self.hub.page < len(rows):
            query = urllib.parse.urlencode({**self.query, "cursor": start + self.hub.page})
            headers["Link"] = f'<{self.hub.url}{urllib.parse.quote(self.route)}?{query}>; rel="next"'
        self._answer(list(rows.values())[start : start + self.hub.page], headers=headers)

    def paths_info(self, kind: str, name: str, revision: str) -> None:
        files = self._commit(self._repo(KINDS[kind], name), revision).files
        rows = []
        for path in urllib.parse.parse_qs(self.body.decode()).get("paths", []):
            if path in files:
                rows.append(_file_row(path, files[path]))
            elif any(place.startswith(f"{path}/") for place in files):
                rows.append(_folder_row(path))
        self._answer(rows)

    def resolve(self, name: str, revision: str, path: str, prefix: str | None = None) -> None:
        repo = self._repo("dataset" if prefix else "model", name)
        self._require_accepted(repo)
        commit = self._commit(repo, revision)
        blob = commit.files.get(path)
        headers = {"X-Repo-Commit": commit.sha}
        if blob is None:
            raise Refusal(404, "Entry not found", "EntryNotFound")
        if not blob.lfs:
            return self._send_file(blob, {**headers, "ETag": f'"{blob.git}"'})
        headers |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(blob.size), "ETag": f'"{blob.git}"'}
        return self._answer({}, 302, {**headers, "Location": f"{self.hub.cdn}/cdn/{blob.sha256}?signature=free"})

    def from_cdn(self, sha: str) -> None:
        assert "Authorization" not in self.headers, "the client sent its token to another host"
        self._send_file(make_blob(sha, (self.hub.blobs / sha).stat().st_size, lfs=True), {"ETag": f'"{sha}"'})

    # writing

    def preupload(self, kind: str, name: str, revision: str) -> None:
        files = self._commit(self._repo(KINDS[kind], name, write=True), revision).files
        rows = []
        for file in self._json()["files"]:
            lfs = file["path"].endswith(LFS_SUFFIXES) or file["size"] > 10_000_000
            old = files.get(file["path"])
            oid = old and (old.sha256 if old.lfs else old.git)
            mode = "lfs" if lfs else "regular"
            rows.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._answer({"files": rows})

    def lfs_batch(self, name: str, prefix: str | None = None) -> None:
        self._repo("dataset" if prefix else "model", name, write=True)
        rows = []
        for entry in self._json()["objects"]:
            oid, size = entry["oid"], entry["size"]
            row: dict[str, Any] = {"oid": oid, "size": size, "authenticated": True}
            if not (self.hub.blobs / oid).exists():
                upload: dict[str, Any] = {"href": f"{self.hub.url}/lfs/{oid}"}
                if size > self.hub.part_size:
                    parts = range(1, -(-size // self.hub.part_size) + 1)
                    urls = {f"{part:05d}": f"{self.hub.url}/lfs/{oid}/{part}" for part in parts}
                    upload["header"] = {"chunk_size": str(self.hub.part_size), **urls}
                verify = f"{self.hub.url}/{prefix or ''}{name}.git/info/lfs/objects/verify"
                row["actions"] = {"upload": upload, "verify": {"href": verify}}
            rows.append(row)
        self._answer({"transfer": "basic", "objects": rows})

    def lfs_put(self, sha: str, part: str | None = None) -> None:
        if part:
            (self.hub.blobs / f"{sha}.{part}").write_bytes(self.body)
            return self._answer({}, headers={"ETag": f'"{hashlib.md5(self.body).hexdigest()}"'})
        if hashlib.sha256(self.body).hexdigest() != sha:
            raise Refusal(400, "the content does not have the promised SHA-256")
        (self.hub.blobs / sha).write_bytes(self.body)
        return self._answer({}, headers={"ETag": f'"{hashlib.md5(self.body).hexdigest()}"'})

    def lfs_complete(self, sha: str) -> None:
        parts = [self.hub.blobs / f"{sha}.{part['partNumber']}" for part in self._json()["parts"]]
        self.body = b"".join(part.read_bytes() for part in parts)
        self.lfs_put(sha)

    def lfs_verify(self, name: str, prefix: str | None = None) -> None:
        self._repo("dataset" if prefix else "model", name, write=True)
        path = self.hub.blobs / self._json()["oid"]
        if not path.exists() or path.stat().st_size != self._json()["size"]:
            raise Refusal(404, "the object was not uploaded")
        self._answer({})

    def take_commit(self, kind: str, name: str, revision: str) -> None:
        with self.hub.lock:
            repo = self._repo(KINDS[kind], name, write=True)
            head = self._commit(repo, revision)
            operations = [json.loads(line) for line in self.body.splitlines()]
            header = operations[0]["value"]
            if header.get("parentCommit", head.sha) != head.sha:
                raise Refusal(412, "A commit has happened since. Please refresh and try again.")
            files = dict(head.files)
            for operation in operations[1:]:
                self._change(files, operation["key"], operation["value"])
            commit = repo.commit(revision, header["summary"], files, head.sha)
        url = f"{self.hub.url}/{kind}/{name}/commit/{commit.sha}"
        self._answer({"success": True, "commitOid": commit.sha, "commitUrl": url})

    def _change(self, files: dict[str, Blob], key: str, value: dict[str, Any]) -> None:
        path = value["path"]
        if key == "file":
            files[path] = self.hub.store(base64.b64decode(value["content"]), lfs=False)
        elif key == "lfsFile":
            place = self.hub.blobs / value["oid"]
            if not place.exists():
                raise Refusal(400, f"LFS pointer of {path} pointed to a file that does not exist")
            files[path] = make_blob(value["oid"], place.stat().st_size, lfs=True)
        elif key == "deletedFile":
            if files.pop(path, None) is None:
                raise Refusal(404, "A file with this name doesn't exist", "EntryNotFound")
        elif key == "deletedFolder":
            for place in [place for place in files if place.startswith(f"{path.rstrip('/')}/")]:
                del files[place]
        else:
            raise Refusal(400, f"unknown operation {key}")

    def lfs_list(self, kind: str, name: str) -> None:
        repo = self._repo(KINDS[kind], name, write=True)
        large = {b.sha256: (p, b) for c in repo.commits.values() for p, b in c.files.items() if b.lfs}
        date = "2026-01-01T00:00:00.000Z"
        row = {"pushedAt": date, "ref": "refs/heads/main"}
        self._answer([
            {**row, "fileOid": sha, "oid": sha, "filename": path, "size": blob.size}
            for sha, (path, blob) in large.items()
        ])  # fmt: skip

    def lfs_delete(self, kind: str, name: str) -> None:
        repo = self._repo(KINDS[kind], name, write=True)
        gone = set(self._json()["deletions"]["sha"])
        for sha, commit in repo.commits.items():
            files = {path: blob for path, blob in commit.files.items() if blob.sha256 not in gone}
            repo.commits[sha] = dataclasses.replace(commit, files=files)
        for sha in gone:
            (self.hub.blobs / sha).unlink(missing_ok=True)
        self._answer({})


def _file_row(path: str, blob: Blob) -> dict[str, Any]:
    row: dict[str, Any] = {"type": "file", "path": path, "size": blob.size, "oid": blob.git}
    return row | ({"lfs": {"oid": blob.sha256, "size": blob.size, "pointerSize": 130}} if blob.lfs else {})


def _folder_row(path: str) -> dict[str, Any]:
    return {"type": "directory", "path": path, "size": 0, "oid": hashlib.sha1(path.encode()).hexdigest()}


_API = r"/api/(?P<kind>datasets|models)/(?P<name>[^/]+/[^/]+)"
_REVISION = r"(?P<revision>[^/]+)"
_GIT = r"/(?P<prefix>datasets/)?(?P<name>[^/]+/[^/]+)"
Answers.routes = [
    ("GET", "/api/whoami-v2", Answers.whoami),
    ("POST", "/api/validate-yaml", Answers.validate_yaml),
    ("POST", "/api/repos/create", Answers.create),
    ("DELETE", "/api/repos/delete", Answers.delete),
    ("PUT", f"{_API}/settings", Answers.settings),
    ("GET", f"{_API}/auth-check", Answers.auth_check),
    ("GET", f"{_API}/refs", Answers.refs),
    ("GET", f"{_API}/lfs-files", Answers.lfs_list),
    ("POST", f"{_API}/lfs-files/batch", Answers.lfs_delete),
    ("POST", f"{_API}/branch/{_REVISION}", Answers.branch),
    ("GET", f"{_API}/commits/{_REVISION}", Answers.commits),
    ("POST", f"{_API}/super-squash/{_REVISION}", Answers.squash),
    ("GET", f"{_API}/tree/{_REVISION}(?:/(?P<path>.*))?", Answers.tree),
    ("POST", f"{_API}/paths-info/{_REVISION}", Answers.paths_info),
    ("POST", f"{_API}/preupload/{_REVISION}", Answers.preupload),
    ("POST", f"{_API}/commit/{_REVISION}", Answers.take_commit),
    ("GET", f"{_API}/revision/{_REVISION}", Answers.info),
    ("GET", _API, Answers.info),
    ("POST", f"{_GIT}\\.git/info/lfs/objects/batch", Answers.lfs_batch),
    ("POST", f"{_GIT}\\.git/info/lfs/objects/verify", Answers.lfs_verify),
    ("PUT", r"/lfs/(?P<sha>[0-9a-f]{64})(?:/(?P<part>\d+))?", Answers.lfs_put),
    ("POST", r"/lfs/(?P<sha>[0-9a-f]{64})", Answers.lfs_complete),
    ("GET", r"/cdn/(?P<sha>[0-9a-f]{64})", Answers.from_cdn),
    ("GET", f"{_GIT}/resolve/{_REVISION}/(?P<path>.+)", Answers.resolve),
]  # fmt: skip

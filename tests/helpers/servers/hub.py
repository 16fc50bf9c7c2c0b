"""A fake Hugging Face Hub, as huggingface_hub and transformers use it to push and pull a model."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import json
import re
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclasses.dataclass
class Commit:
    message: str
    files: dict[str, bytes]

    @property
    def sha(self) -> str:
        hashes = [(name, _sha256(content)) for name, content in self.files.items()]
        return hashlib.sha1(repr((self.message, sorted(hashes))).encode()).hexdigest()


@dataclasses.dataclass
class Repository:
    private: bool
    commits: list[Commit]

    def at(self, revision: str) -> Commit | None:
        if revision == "main":
            return self.commits[-1]
        return next((commit for commit in self.commits if commit.sha == revision), None)


class Hub:
    """Model repositories in memory, users by token, and a log of requests."""

    def __init__(self) -> None:
        self.users = {"hf_mine": "me", "hf_theirs": "them"}
        self.readers = {"hf_reading": "me"}
        self.repos: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.interrupted: re.Pattern[str] | None = None
        """Requests whose connection is closed when half of the body has arrived."""
        self.lock = threading.Lock()

    def put(self, name: str, *, private: bool = False, **files: bytes) -> Repository:
        """Create a repository with a first commit, as the Hub does."""
        all_files = {".gitattributes": b"*.safetensors filter=lfs\n"} | files
        self.repos[name] = Repository(private, [Commit("initial commit", all_files)])
        return self.repos[name]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *args: object) -> None:
        pass

    def answer(self, status: int, body: bytes | dict | list = b"", **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header(
            "Content-Type", "text/plain" if isinstance(body, bytes) else "application/json"
        )
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def refuse(self, status: int, code: str = "") -> None:
        # The messages of a server may quote the token that was sent: clients must not print them.
        message = f"no: {self.headers.get('Authorization')}"
        headers = {"X_Error_Code": code} if code else {}
        self.answer(status, {"error": message}, X_Error_Message=message, **headers)

    def handle_one(self) -> None:
        self.path = unquote(urlsplit(self.path).path)
        request = f"{self.command} {self.path}"
        size = int(self.headers.get("Content-Length") or 0)
        self.hub.requests.append(request)
        if self.hub.interrupted and self.hub.interrupted.search(request):
            self.rfile.read(size // 2)
            self.close_connection = True
            return
        body = self.rfile.read(size)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        user = self.hub.users.get(token) or self.hub.readers.get(token)
        if token and not user:
            # With an invalid token, the Hub does not reveal whether a repository exists.
            return self.refuse(401, "RepoNotFound" if "/api/models/" in request else "")
        for pattern, route in ROUTES:
            if match := re.fullmatch(pattern, request):
                with self.hub.lock:
                    return route(self, user, token in self.hub.users, body, *match.groups())
        self.answer(404)

    do_GET = do_HEAD = do_POST = do_PUT = handle_one

    def whoami(self, user, writes, body) -> None:
        if not user:
            return self.refuse(401)
        self.answer(200, {"type": "user", "name": user, "orgs": []})

    def create(self, user, writes, body) -> None:
        request = json.loads(body)
        owner = request.get("organization") or user
        name = f"{owner}/{request['name']}"
        if not user:
            return self.refuse(401)
        if owner != user or not writes:
            return self.refuse(403)
        description = {"url": f"http://{self.headers['Host']}/{name}", "name": name}
        if name in self.hub.repos:
            return self.answer(409, description | {"error": "You already created this model repo"})
        private = request.get("visibility") == "private" or bool(request.get("private"))
        self.hub.put(name, private=private)
        self.answer(200, description)

    def yaml(self, user, writes, body) -> None:
        assert json.loads(body)["content"].startswith("---\n")
        self.answer(200, {"errors": [], "warnings": []})

    def readable(self, name: str, user: str | None) -> Repository | None:
        """Return a repository; answer that it does not exist if the user may not read it."""
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and name.partition("/")[0] != user):
            self.refuse(404 if user else 401, "RepoNotFound")
            return None
        return repo

    def writable(self, name: str, user: str | None, writes: bool) -> Repository | None:
        repo = self.readable(name, user)
        if repo and not (writes and name.partition("/")[0] == user):
            self.refuse(403)
            return None
        return repo

    def info(self, user, writes, body, name, revision=None) -> None:
        if repo := self.readable(name, user):
            commit = repo.at(revision or "main")
            if commit is None:
                return self.refuse(404, "RevisionNotFound")
            names = [{"rfilename": file} for file in commit.files]
            self.answer(
                200, {"id": name, "sha": commit.sha, "private": repo.private, "siblings": names}
            )

    def tree(self, user, writes, body, name, revision) -> None:
        if (repo := self.readable(name, user)) and (commit := repo.at(revision)):
            files = [
                {"type": "file", "path": path, "size": len(content), "oid": _oid(content)}
                for path, content in commit.files.items()
            ]
            self.answer(200, files)

    def resolve(self, user, writes, body, name, revision, path) -> None:
        if not (repo := self.readable(name, user)):
            return
        commit = repo.at(revision)
        if commit is None or path not in commit.files:
            return self.refuse(404, "EntryNotFound" if commit else "RevisionNotFound")
        content = commit.files[path]
        self.answer(200, content, ETag=f'"{_oid(content)}"', X_Repo_Commit=commit.sha)

    def preupload(self, user, writes, body, name) -> None:
        if repo := self.writable(name, user, writes):
            current = repo.commits[-1].files
            files = []
            for file in json.loads(body)["files"]:
                path, content = file["path"], current.get(file["path"])
                mode = "lfs" if path.endswith(".safetensors") else "regular"
                hash_content = _oid if mode == "regular" else _sha256
                oid = None if content is None else hash_content(content)
                files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
            self.answer(200, {"files": files})

    def batch(self, user, writes, body, name) -> None:
        if self.writable(name, user, writes):
            objects = []
            for blob in json.loads(body)["objects"]:
                href = f"http://{self.headers['Host']}/lfs/{blob['oid']}"
                stored = blob["oid"] in self.hub.blobs
                objects.append(blob | ({} if stored else {"actions": {"upload": {"href": href}}}))
            self.answer(200, {"transfer": "basic", "objects": objects})

    def blob(self, user, writes, body, oid) -> None:
        if _sha256(body) != oid:
            return self.answer(400)
        self.hub.blobs[oid] = body
        self.answer(200)

    def commit(self, user, writes, body, name) -> None:
        if not (repo := self.writable(name, user, writes)):
            return
        header, *changes = (json.loads(line) for line in body.splitlines())
        parent = header["value"].get("parentCommit")
        if parent and parent != repo.commits[-1].sha:
            return self.refuse(412)
        files = dict(repo.commits[-1].files)
        for change in changes:
            value = change["value"]
            if change["key"] == "deletedFile":
                del files[value["path"]]
            elif change["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
            else:
                files[value["path"]] = base64.b64decode(value["content"])
        repo.commits.append(Commit(header["value"]["summary"], files))
        sha = repo.commits[-1].sha
        self.answer(
            200,
            {
                "success": True,
                "commitOid": sha,
                "commitUrl": f"http://{self.headers['Host']}/{name}/commit/{sha}",
            },
        )


def _oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


NAME = r"(\w[\w.-]*/\w[\w.-]*)"
ROUTES = (
    ("GET /api/whoami-v2", _Handler.whoami),
    ("POST /api/repos/create", _Handler.create),
    ("POST /api/validate-yaml", _Handler.yaml),
    (f"GET /api/models/{NAME}", _Handler.info),
    (f"GET /api/models/{NAME}/revision/(.+)", _Handler.info),
    (f"GET /api/models/{NAME}/tree/([^/]+)", _Handler.tree),
    (f"POST /api/models/{NAME}/preupload/main", _Handler.preupload),
    (f"POST /{NAME}.git/info/lfs/objects/batch", _Handler.batch),
    (r"PUT /lfs/(\w{64})", _Handler.blob),
    (f"POST /api/models/{NAME}/commit/main", _Handler.commit),
    (f"(?:GET|HEAD) /{NAME}/resolve/([^/]+)/(.+)", _Handler.resolve),
)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *args: object) -> None:
        # Clients may close a connection early.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(*args)


@contextlib.contextmanager
def serving() -> Iterator[tuple[Hub, dict[str, str]]]:
    """Serve a Hub in a thread; yield it with the environment variables of its clients."""
    hub = Hub()
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HUB_OFFLINE": "0",
        # Upload files by Git LFS, which this server implements.
        "HF_HUB_DISABLE_XET": "1",
    }
    try:
        yield hub, environment
    finally:
        server.shutdown()
        server.server_close()

"""A server of the Hub's routes, as much of it as huggingface_hub and transformers ask for to push a model and to pull it."""

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
    told: str
    files: dict[str, bytes]

    @property
    def sha(self) -> str:
        listed = [(name, _sha256(content)) for name, content in self.files.items()]
        return hashlib.sha1(repr((self.told, sorted(listed))).encode()).hexdigest()


@dataclasses.dataclass
class Stored:
    private: bool
    commits: list[Commit]

    def at(self, revision: str) -> Commit | None:
        if revision == "main":
            return self.commits[-1]
        return next((commit for commit in self.commits if commit.sha == revision), None)


class Hub:
    """Repositories of models in memory, whose they are by token, and a log of what was asked."""

    def __init__(self) -> None:
        self.users = {"hf_mine": "me", "hf_theirs": "them"}
        self.readers = {"hf_reading": "me"}
        self.repos: dict[str, Stored] = {}
        self.blobs: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.cut: re.Pattern[str] | None = (
            None  # of what is asked so, the connection is closed halfway
        )
        self.lock = threading.Lock()

    def put(self, name: str, *, private: bool = False, **files: bytes) -> Stored:
        """Make a repository as the Hub does, with a first commit."""
        named = {".gitattributes": b"*.safetensors filter=lfs\n"} | files
        self.repos[name] = Stored(private, [Commit("initial commit", named)])
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
        # A server's own words may hold what was sent, and are not to be trusted with it.
        said = f"no: {self.headers.get('Authorization')}"
        self.answer(
            status,
            {"error": said},
            X_Error_Message=said,
            **({"X_Error_Code": code} if code else {}),
        )

    def handle_one(self) -> None:
        self.path = unquote(urlsplit(self.path).path)
        asked = f"{self.command} {self.path}"
        size = int(self.headers.get("Content-Length") or 0)
        self.hub.asked.append(asked)
        if self.hub.cut and self.hub.cut.search(asked):
            self.rfile.read(size // 2)
            self.close_connection = True
            return
        body = self.rfile.read(size)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        who = self.hub.users.get(token) or self.hub.readers.get(token)
        if token and not who:  # for all that it knows, such a repository may be there
            return self.refuse(401, "RepoNotFound" if "/api/models/" in asked else "")
        for pattern, answer in ROUTES:
            if found := re.fullmatch(pattern, asked):
                with self.hub.lock:
                    return answer(self, who, token in self.hub.users, body, *found.groups())
        self.answer(404)

    do_GET = do_HEAD = do_POST = do_PUT = handle_one

    def whoami(self, who, writes, body) -> None:
        if not who:
            return self.refuse(401)
        self.answer(200, {"type": "user", "name": who, "orgs": []})

    def create(self, who, writes, body) -> None:
        given = json.loads(body)
        owner = given.get("organization") or who
        name = f"{owner}/{given['name']}"
        if not who:
            return self.refuse(401)
        if owner != who or not writes:
            return self.refuse(403)
        told = {"url": f"http://{self.headers['Host']}/{name}", "name": name}
        if name in self.hub.repos:
            return self.answer(409, told | {"error": "You already created this model repo"})
        self.hub.put(
            name, private=given.get("visibility") == "private" or bool(given.get("private"))
        )
        self.answer(200, told)

    def yaml(self, who, writes, body) -> None:
        assert json.loads(body)["content"].startswith("---\n")
        self.answer(200, {"errors": [], "warnings": []})

    def readable(self, name: str, who: str | None) -> Stored | None:
        """Find a repository; without one that may be read, answer as if there were none."""
        found = self.hub.repos.get(name)
        if found is None or (found.private and name.partition("/")[0] != who):
            self.refuse(404 if who else 401, "RepoNotFound")
            return None
        return found

    def writable(self, name: str, who: str | None, writes: bool) -> Stored | None:
        found = self.readable(name, who)
        if found and not (writes and name.partition("/")[0] == who):
            self.refuse(403)
            return None
        return found

    def info(self, who, writes, body, name, revision=None) -> None:
        if found := self.readable(name, who):
            commit = found.at(revision or "main")
            if commit is None:
                return self.refuse(404, "RevisionNotFound")
            names = [{"rfilename": file} for file in commit.files]
            self.answer(
                200, {"id": name, "sha": commit.sha, "private": found.private, "siblings": names}
            )

    def tree(self, who, writes, body, name, revision) -> None:
        if (found := self.readable(name, who)) and (commit := found.at(revision)):
            files = [
                {"type": "file", "path": path, "size": len(content), "oid": _oid(content)}
                for path, content in commit.files.items()
            ]
            self.answer(200, files)

    def resolve(self, who, writes, body, name, revision, path) -> None:
        if not (found := self.readable(name, who)):
            return
        commit = found.at(revision)
        if commit is None or path not in commit.files:
            return self.refuse(404, "EntryNotFound" if commit else "RevisionNotFound")
        content = commit.files[path]
        self.answer(200, content, ETag=f'"{_oid(content)}"', X_Repo_Commit=commit.sha)

    def preupload(self, who, writes, body, name) -> None:
        if found := self.writable(name, who, writes):
            now = found.commits[-1].files
            files = []
            for file in json.loads(body)["files"]:
                path, content = file["path"], now.get(file["path"])
                mode = "lfs" if path.endswith(".safetensors") else "regular"
                known = (
                    None
                    if content is None
                    else _oid(content)
                    if mode == "regular"
                    else _sha256(content)
                )
                files.append(
                    {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": known}
                )
            self.answer(200, {"files": files})

    def batch(self, who, writes, body, name) -> None:
        if self.writable(name, who, writes):
            objects = []
            for wanted in json.loads(body)["objects"]:
                href = f"http://{self.headers['Host']}/lfs/{wanted['oid']}"
                known = wanted["oid"] in self.hub.blobs
                objects.append(wanted | ({} if known else {"actions": {"upload": {"href": href}}}))
            self.answer(200, {"transfer": "basic", "objects": objects})

    def blob(self, who, writes, body, oid) -> None:
        if _sha256(body) != oid:
            return self.answer(400)
        self.hub.blobs[oid] = body
        self.answer(200)

    def commit(self, who, writes, body, name) -> None:
        if not (found := self.writable(name, who, writes)):
            return
        header, *changes = (json.loads(line) for line in body.splitlines())
        parent = header["value"].get("parentCommit")
        if parent and parent != found.commits[-1].sha:
            return self.refuse(412)
        files = dict(found.commits[-1].files)
        for change in changes:
            value = change["value"]
            if change["key"] == "deletedFile":
                del files[value["path"]]
            elif change["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
            else:
                files[value["path"]] = base64.b64decode(value["content"])
        found.commits.append(Commit(header["value"]["summary"], files))
        sha = found.commits[-1].sha
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

    def handle_error(self, *told: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # whoever asked may hang up
            super().handle_error(*told)


@contextlib.contextmanager
def serving() -> Iterator[tuple[Hub, dict[str, str]]]:
    """Serve a Hub for a while: the Hub, and what a process must find in its environment to ask it."""
    hub = Hub()
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    told = {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",  # files go the way that every server of the Hub's routes knows
    }
    try:
        yield hub, told
    finally:
        server.shutdown()
        server.server_close()

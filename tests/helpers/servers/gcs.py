"""A server of Cloud Storage's JSON API, as much of it as gcsfs, tensorstore and google-cloud-storage ask for."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import json
import re
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import google_crc32c


class Object(NamedTuple):
    content: bytes
    generation: int


class Bucket:
    """One bucket, ``test``, in memory: its objects by name, and a log of what was asked."""

    def __init__(self) -> None:
        self.objects: dict[str, Object] = {}
        self.asked: list[str] = []
        self.down = False  # answers 403 to everything
        self.shut: re.Pattern[str] | None = None  # or to what is asked so
        self._generations, self._uploads = itertools.count(1), itertools.count(1)
        self._open: dict[str, tuple[str, bytes]] = {}
        self._lock = threading.Lock()

    def put(self, name: str, content: bytes, only: str | None = None) -> dict | None:
        """Store an object; None where its generation is not the ``only`` one that may be replaced."""
        with self._lock:
            now = self.objects.get(name)
            if only is not None and int(only) != (now.generation if now else 0):
                return None
            self.objects[name] = Object(content, next(self._generations))
            return self.described(name)

    def described(self, name: str) -> dict:
        content, generation = self.objects[name]
        md5 = base64.b64encode(hashlib.md5(content).digest()).decode()
        crc = base64.b64encode(google_crc32c.Checksum(content).digest()).decode()
        return {
            "kind": "storage#object",
            "name": name,
            "bucket": "test",
            "size": str(len(content)),
            "generation": str(generation),
            "md5Hash": md5,
            "crc32c": crc,
            "updated": "2026-01-01T00:00:00.000Z",
            "timeCreated": "2026-01-01T00:00:00.000Z",
        }

    def listed(self, asked: dict[str, str]) -> dict:
        prefix, cut = asked.get("prefix", ""), asked.get("delimiter")
        items, prefixes = [], set()
        for name in sorted(self.objects):
            if not name.startswith(prefix) or name < asked.get("startOffset", ""):
                continue
            if asked.get("endOffset") and name >= asked["endOffset"]:
                continue
            below, mark, _ = name[len(prefix) :].partition(cut or "\0")
            if mark:
                prefixes.add(f"{prefix}{below}{cut}")
            else:
                items.append(self.described(name))
        return {"kind": "storage#objects", "items": items, "prefixes": sorted(prefixes)}

    def files(self, below: str = "") -> list[str]:
        return sorted(name for name in list(self.objects) if name.startswith(below))

    def remove(self, below: str) -> None:
        for name in self.files(below):
            del self.objects[name]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    bucket: Bucket

    def log_message(self, *args: object) -> None:
        pass

    def answer(self, status: int, body: bytes | dict = b"", **headers: str) -> None:
        content = json.dumps(body).encode() if isinstance(body, dict) else body
        self.send_response(status)
        self.send_header(
            "Content-Type", "application/json" if isinstance(body, dict) else "text/plain"
        )
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def missing(self) -> None:
        self.answer(404, {"error": {"code": 404, "message": "there is no such object"}})

    def handle_one(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        asked = {
            name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()
        }
        self.bucket.asked.append(f"{self.command} {unquote(self.path)}")
        if self.bucket.down or (self.bucket.shut and self.bucket.shut.match(unquote(self.path))):
            return self.answer(403, {"error": {"code": 403, "message": "this account may not"}})
        upload = re.fullmatch(r"/(?:resumable/)?upload/storage/v1/b/test/o", url.path)
        if upload and "upload_id" in asked:
            return self.go_on(asked["upload_id"], body)
        if upload:
            return self.upload(asked, body)
        found = re.fullmatch(r"(?:/download)?/storage/v1/b/test(/o(?:/(.*))?)?", url.path)
        if not found:
            return self.missing()
        if found[1] is None:
            return self.answer(200, {"kind": "storage#bucket", "name": "test", "id": "test"})
        if found[2] is None:
            return self.answer(200, self.bucket.listed(asked))
        copied = re.fullmatch(r"(.*)/(?:rewriteTo|copyTo)/b/test/o/(.*)", found[2])
        if copied and self.command == "POST":
            return self.copy(*map(unquote, copied.groups()))
        moved = re.fullmatch(r"(.*)/moveTo/o/(.*)", found[2])
        if moved and self.command == "POST":
            return self.move(*map(unquote, moved.groups()))
        return self.one(unquote(found[2]), asked)

    do_GET = do_POST = do_PUT = do_DELETE = handle_one

    def one(self, name: str, asked: dict[str, str]) -> None:
        now = self.bucket.objects.get(name)
        if now is None:
            return self.missing()
        if self.command == "DELETE":
            del self.bucket.objects[name]
            return self.answer(204)
        only = asked.get("ifGenerationMatch")
        if only and int(only) != now.generation:
            return self.answer(412, {"error": {"code": 412, "message": "another generation"}})
        if asked.get("ifGenerationNotMatch") == str(now.generation):
            return self.answer(304)
        if asked.get("alt") != "media":
            return self.answer(200, self.bucket.described(name))
        content, size = now.content, len(now.content)
        told = {
            "X_Goog_Generation": str(now.generation),
            "X_Goog_Hash": f"md5={self.bucket.described(name)['md5Hash']}",
            "ETag": f'"{now.generation}"',
        }
        span = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "")
        if not span:
            return self.answer(200, content, **told)
        if span[1] == "":
            first, last = max(0, size - int(span[2])), size - 1
        else:
            first, last = int(span[1]), min(int(span[2] or size - 1), size - 1)
        if first > last:
            return self.answer(416, Content_Range=f"bytes */{size}", **told)
        told["Content_Range"] = f"bytes {first}-{last}/{size}"
        return self.answer(206, content[first : last + 1], **told)

    def upload(self, asked: dict[str, str], body: bytes) -> None:
        only = asked.get("ifGenerationMatch")
        if asked["uploadType"] == "media":
            return self.stored(self.bucket.put(asked["name"], body, only))
        if asked["uploadType"] == "resumable":
            number = str(next(self.bucket._uploads))
            self.bucket._open[number] = (json.loads(body)["name"], b"")
            where = f"http://{self.headers['Host']}/upload/storage/v1/b/test/o?upload_id={number}"
            return self.answer(200, {}, Location=where)
        mark = body[: body.index(b"\n")].strip()
        _, told, content, _ = body.split(mark)
        told = told.replace(b"\r\n", b"\n").split(b"\n\n", 1)[1]
        content = re.split(rb"\r?\n\r?\n", content, maxsplit=1)[1]
        content = content[:-2] if content.endswith(b"\r\n") else content[:-1]
        return self.stored(self.bucket.put(json.loads(told)["name"], content, only))

    def go_on(self, number: str, body: bytes) -> None:
        name, before = self.bucket._open[number]
        self.bucket._open[number] = (name, before + body)
        total = self.headers["Content-Range"].rpartition("/")[2]
        if total != "*" and len(before + body) == int(total):
            return self.stored(self.bucket.put(name, before + body))
        return self.answer(308, Range=f"bytes=0-{len(before + body) - 1}")

    def stored(self, described: dict | None) -> None:
        if described is None:
            return self.answer(412, {"error": {"code": 412, "message": "another generation"}})
        return self.answer(200, described)

    def move(self, source: str, target: str) -> None:
        if source not in self.bucket.objects:
            return self.missing()
        return self.answer(
            200, self.bucket.put(target, self.bucket.objects.pop(source).content) or {}
        )

    def copy(self, source: str, target: str) -> None:
        if source not in self.bucket.objects:
            return self.missing()
        described = self.bucket.put(target, self.bucket.objects[source].content) or {}
        return self.answer(
            200, {"kind": "storage#rewriteResponse", "done": True, "resource": described}
        )


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *told: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # whoever asked may hang up
            super().handle_error(*told)


@contextlib.contextmanager
def serving() -> Iterator[tuple[Bucket, dict[str, str]]]:
    """Serve a bucket for a while: the bucket, and what a process must find in its environment to ask it."""
    bucket = Bucket()
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"bucket": bucket}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    where = f"http://127.0.0.1:{server.server_port}"
    told = {
        "STORAGE_EMULATOR_HOST": where,
        "TENSORSTORE_GCS_HTTP_URL": where,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
        "NO_GCE_CHECK": "true",  # nobody looks for the metadata of a cloud's machine
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        "CLOUDSDK_CONFIG": "/nonexistent",
        "GOOGLE_CLOUD_PROJECT": "test",
    }
    try:
        yield bucket, told
    finally:
        server.shutdown()
        server.server_close()

"""A fake of Cloud Storage's JSON API, as gcsfs, tensorstore and google-cloud-storage use it."""

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

OBJECTS = "/storage/v1/b/test/o"


class Object(NamedTuple):
    content: bytes
    generation: int


class Bucket:
    """The bucket ``test`` in memory: its objects by name, and a log of requests."""

    def __init__(self) -> None:
        self.objects: dict[str, Object] = {}
        self.requests: list[str] = []
        self.down = False
        """Whether every request is answered by 403."""
        self.forbidden: re.Pattern[str] | None = None
        """Paths of requests that are answered by 403."""
        self.truncated: re.Pattern[str] | None = None
        """Names of objects that lose their last byte when they are stored."""
        self._generations, self._upload_ids = itertools.count(1), itertools.count(1)
        self._uploads: dict[str, tuple[str, bytes]] = {}
        self._lock = threading.Lock()

    def put(self, name: str, content: bytes, if_generation: str | None = None) -> dict | None:
        """Store an object; return None if another generation than ``if_generation`` exists."""
        with self._lock:
            current = self.objects.get(name)
            generation = current.generation if current else 0
            if if_generation is not None and int(if_generation) != generation:
                return None
            if self.truncated and self.truncated.match(name):
                content = content[:-1]
            self.objects[name] = Object(content, next(self._generations))
            return self.describe(name)

    def describe(self, name: str) -> dict:
        """Return the metadata of an object."""
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

    def list_objects(self, query: dict[str, str]) -> dict:
        """Answer a list request with prefix, delimiter, startOffset and endOffset."""
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        items, prefixes = [], set()
        for name in sorted(self.objects):
            if not name.startswith(prefix) or name < query.get("startOffset", ""):
                continue
            if query.get("endOffset") and name >= query["endOffset"]:
                continue
            below, mark, _ = name[len(prefix) :].partition(delimiter or "\0")
            if mark:
                prefixes.add(f"{prefix}{below}{delimiter}")
            else:
                items.append(self.describe(name))
        return {"kind": "storage#objects", "items": items, "prefixes": sorted(prefixes)}

    def files(self, prefix: str = "") -> list[str]:
        return sorted(name for name in list(self.objects) if name.startswith(prefix))

    def remove(self, prefix: str) -> None:
        for name in self.files(prefix):
            del self.objects[name]


def parse_multipart(body: bytes) -> tuple[dict, bytes]:
    """Return the metadata and the content of a multipart/related upload.

    The newline before a delimiter belongs to the delimiter. gcsfs writes LF and Google's libraries
    write CRLF: with LF, a CR before it is the last byte of the content.
    """
    first_line = body[: body.index(b"\n") + 1]
    delimiter = first_line.rstrip(b"\r\n")
    newline = first_line.removeprefix(delimiter)
    _, metadata, content, _ = (newline + body).split(newline + delimiter)
    # Headers end at the first empty line.
    metadata, content = (part.split(newline * 2, 1)[1] for part in (metadata, content))
    return json.loads(metadata), content


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    bucket: Bucket

    def log_message(self, *args: object) -> None:
        pass

    def answer(self, status: int, body: bytes | dict = b"", **headers: str) -> None:
        content = json.dumps(body).encode() if isinstance(body, dict) else body
        content_type = "application/json" if isinstance(body, dict) else "text/plain"
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def error(self, status: int, message: str) -> None:
        self.answer(status, {"error": {"code": status, "message": message}})

    def not_found(self) -> None:
        self.error(404, "no such object")

    def handle_one(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url, path = urlsplit(self.path), unquote(self.path)
        query = {
            name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()
        }
        self.bucket.requests.append(f"{self.command} {path}")
        if self.bucket.down or (self.bucket.forbidden and self.bucket.forbidden.match(path)):
            return self.error(403, "this account has no permission")
        if re.fullmatch(rf"/(?:resumable/)?upload{OBJECTS}", url.path):
            if "upload_id" in query:
                return self.resume_upload(query["upload_id"], body)
            return self.upload(query, body)
        match = re.fullmatch(r"(?:/download)?/storage/v1/b/test(/o(?:/(.*))?)?", url.path)
        if not match:
            return self.not_found()
        collection, name = match.groups()
        if collection is None:
            return self.answer(200, {"kind": "storage#bucket", "name": "test", "id": "test"})
        if name is None:
            return self.answer(200, self.bucket.list_objects(query))
        copy = re.fullmatch(r"(.*)/(?:rewriteTo|copyTo)/b/test/o/(.*)", name)
        if copy and self.command == "POST":
            return self.copy(*map(unquote, copy.groups()))
        move = re.fullmatch(r"(.*)/moveTo/o/(.*)", name)
        if move and self.command == "POST":
            return self.move(*map(unquote, move.groups()))
        return self.object(unquote(name), query)

    do_GET = do_POST = do_PUT = do_DELETE = handle_one

    def object(self, name: str, query: dict[str, str]) -> None:
        current = self.bucket.objects.get(name)
        if current is None:
            return self.not_found()
        if self.command == "DELETE":
            del self.bucket.objects[name]
            return self.answer(204)
        if_generation = query.get("ifGenerationMatch")
        if if_generation and int(if_generation) != current.generation:
            return self.error(412, "another generation")
        if query.get("ifGenerationNotMatch") == str(current.generation):
            return self.answer(304)
        if query.get("alt") != "media":
            return self.answer(200, self.bucket.describe(name))
        return self.media(name, current)

    def media(self, name: str, current: Object) -> None:
        """Answer with the content, or the bytes that the Range header names."""
        content, size = current.content, len(current.content)
        headers = {
            "X_Goog_Generation": str(current.generation),
            "X_Goog_Hash": f"md5={self.bucket.describe(name)['md5Hash']}",
            "ETag": f'"{current.generation}"',
        }
        span = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "")
        if not span:
            return self.answer(200, content, **headers)
        if span[1] == "":
            first, last = max(0, size - int(span[2])), size - 1
        else:
            first, last = int(span[1]), min(int(span[2] or size - 1), size - 1)
        if first > last:
            return self.answer(416, Content_Range=f"bytes */{size}", **headers)
        headers["Content_Range"] = f"bytes {first}-{last}/{size}"
        return self.answer(206, content[first : last + 1], **headers)

    def upload(self, query: dict[str, str], body: bytes) -> None:
        if_generation = query.get("ifGenerationMatch")
        if query["uploadType"] == "media":
            return self.store(self.bucket.put(query["name"], body, if_generation))
        if query["uploadType"] == "resumable":
            upload_id = str(next(self.bucket._upload_ids))
            self.bucket._uploads[upload_id] = (json.loads(body)["name"], b"")
            location = f"http://{self.headers['Host']}/upload{OBJECTS}?upload_id={upload_id}"
            return self.answer(200, {}, Location=location)
        metadata, content = parse_multipart(body)
        return self.store(self.bucket.put(metadata["name"], content, if_generation))

    def resume_upload(self, upload_id: str, body: bytes) -> None:
        name, received = self.bucket._uploads[upload_id]
        received += body
        self.bucket._uploads[upload_id] = (name, received)
        total = self.headers["Content-Range"].rpartition("/")[2]
        if total != "*" and len(received) == int(total):
            return self.store(self.bucket.put(name, received))
        return self.answer(308, Range=f"bytes=0-{len(received) - 1}")

    def store(self, metadata: dict | None) -> None:
        if metadata is None:
            return self.error(412, "another generation")
        return self.answer(200, metadata)

    def move(self, source: str, target: str) -> None:
        if source not in self.bucket.objects:
            return self.not_found()
        content = self.bucket.objects.pop(source).content
        return self.answer(200, self.bucket.put(target, content) or {})

    def copy(self, source: str, target: str) -> None:
        if source not in self.bucket.objects:
            return self.not_found()
        metadata = self.bucket.put(target, self.bucket.objects[source].content) or {}
        response = {"kind": "storage#rewriteResponse", "done": True, "resource": metadata}
        return self.answer(200, response)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *args: object) -> None:
        # Clients may close a connection early.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(*args)


@contextlib.contextmanager
def serving() -> Iterator[tuple[Bucket, dict[str, str]]]:
    """Serve a bucket in a thread; yield it with the environment variables of its clients."""
    bucket = Bucket()
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"bucket": bucket}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    environment = {
        "STORAGE_EMULATOR_HOST": address,
        "TENSORSTORE_GCS_HTTP_URL": address,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
        # No client looks for the metadata server of a cloud machine.
        "NO_GCE_CHECK": "true",
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        "CLOUDSDK_CONFIG": "/nonexistent",
        "GOOGLE_CLOUD_PROJECT": "test",
    }
    try:
        yield bucket, environment
    finally:
        server.shutdown()
        server.server_close()

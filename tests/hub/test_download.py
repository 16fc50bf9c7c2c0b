"""Where a model is looked for: local directories and the Hub."""

import hashlib
import http.server
import json
import re
import threading
from pathlib import Path

import pytest
from helpers.checkpoints import assert_refused, run_code

from flaxdistill.errors import UserError
from flaxdistill.hub.checkpoint import read_model
from flaxdistill.hub.download import resolve

TOKEN = "hf_neverToBePrinted"


@pytest.mark.parametrize(
    "name", ["/no/where", "./teacher", "~/no/teacher", "teacher", "a/b/c", "../x/y", "user/repo@"]
)
def test_missing_directory(name):
    with pytest.raises(
        UserError,
        match=f"there is no directory {re.escape(name)}; give one that exists or the id of",
    ):
        resolve(name)


def test_file_instead_of_directory(saved):
    assert_refused(
        saved / "model.safetensors", "model.safetensors is a file; give the directory that holds it"
    )


class Hub(http.server.BaseHTTPRequestHandler):
    """Serve one folder as good/model with the Hub's read routes; private/model returns 401."""

    folder: Path
    authorizations: set = set()  # noqa: RUF012

    def log_message(self, *_):
        pass

    def respond(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self):
        sha = "a" * 40
        path = self.path.partition("?")[0]
        self.authorizations.add(self.headers.get("Authorization"))
        names = sorted(file.name for file in self.folder.iterdir())
        if path.startswith(("/api/models/private/model", "/private/model")):
            # The message of a server may contain the token, too.
            self.respond(401, X_Error_Message=f"bad {self.headers.get('Authorization')}")
        elif path.startswith("/api/models/broken/model"):
            self.respond(400, X_Error_Message="what?")
        elif (
            re.fullmatch(r"/api/models/good/model/revision/(main|v1\.0|a{40})", path)
            or path == "/api/models/good/model"
        ):
            info = {
                "id": "good/model",
                "sha": sha,
                "siblings": [{"rfilename": name} for name in names],
            }
            self.respond(200, json.dumps(info).encode(), Content_Type="application/json")
        elif path.startswith("/api/models/good/model/tree/"):
            rows = [
                {
                    "type": "file",
                    "path": n,
                    "size": (self.folder / n).stat().st_size,
                    "oid": etag(self.folder / n),
                }
                for n in names
            ]
            self.respond(200, json.dumps(rows).encode(), Content_Type="application/json")
        elif (found := re.fullmatch(rf"/good/model/resolve/{sha}/(.+)", path)) and found[
            1
        ] in names:
            file = self.folder / found[1]
            self.respond(200, file.read_bytes(), ETag=f'"{etag(file)}"', X_Repo_Commit=sha)
        elif path.startswith("/api/models/good/model/revision/"):
            self.respond(404, X_Error_Code="RevisionNotFound")
        elif path.startswith("/api/models/"):
            self.respond(404, X_Error_Code="RepoNotFound")
        else:
            self.respond(404)

    do_HEAD = do_GET


def etag(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()


@pytest.fixture
def hub(saved):
    (saved / "vocab.txt").write_text("[PAD]\n")
    (saved / "pytorch_model.bin").write_text("never downloaded")
    handler = type("Folder", (Hub,), {"folder": saved, "authorizations": set()})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


READ = """
import sys
from flaxdistill.errors import UserError
from flaxdistill.hub.checkpoint import read_model
for source in sys.argv[1:]:
    try:
        model = read_model(source)
        print(model.digest, sorted(file.name for file in model.directory.iterdir()))
    except UserError as error:
        print(error)
"""


def test_hub(hub, saved, tmp_path):
    sources = [
        "good/model",
        "good/model@v1.0",
        "good/model@v2",
        "no/model",
        "private/model",
        "broken/model",
        "bad--id/x",
    ]
    environment = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_TOKEN": TOKEN}
    process = run_code(READ, *sources, HF_HOME=str(tmp_path / "cache"), **environment)
    assert TOKEN not in process.stdout + process.stderr and "Traceback" not in process.stderr
    assert f"Bearer {TOKEN}" in hub.RequestHandlerClass.authorizations
    downloaded = (
        f"{read_model(str(saved)).digest} ['config.json', 'model.safetensors', 'vocab.txt']"
    )
    cannot = "is no local directory, and cannot be downloaded from the Hub:"
    assert process.stdout.splitlines() == [
        downloaded,
        downloaded,
        f"good/model@v2 {cannot} it has no such revision; check the part after @",
        f"no/model {cannot} the Hub answers 404; check the id, and HF_TOKEN if it is private",
        f"private/model {cannot} the Hub answers 401; check the id, and HF_TOKEN if it is private",
        f"broken/model {cannot} the Hub answers 400; try again, or give a local directory",
        f"bad--id/x {cannot} the id is not valid; write user/repo or user/repo@revision",
    ]


def test_hub_unreachable(tmp_path):
    process = run_code(
        READ, "good/model", HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1", HF_TOKEN=TOKEN
    )
    assert process.stdout == (
        "good/model is no local directory, and cannot be downloaded from the Hub: the Hub cannot "
        "be reached and its cache has no copy; give a local directory\n"
    ), process
    assert TOKEN not in process.stderr and "Traceback" not in process.stderr

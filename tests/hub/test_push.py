"""Push of an export to the Hub in one commit, and loading it from there with transformers."""

from __future__ import annotations

import re
import subprocess
import sys
import types

import numpy as np
import pytest
from helpers.cli import environment, refused, succeed
from helpers.servers import hub as hub_server
from huggingface_hub import constants
from huggingface_hub.utils import _http, close_session

from flaxdistill.experiment import run_models
from flaxdistill.hub import stablehlo, verify

FILES = {"README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}

# The client raises it when it uploads a file without Xet.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

PULL = """
import sys
import numpy as np, torch, transformers
text, out = sys.argv[1:]
tokenizer = transformers.AutoTokenizer.from_pretrained("me/student")
model = transformers.AutoModelForMaskedLM.from_pretrained("me/student").eval()
inputs = tokenizer(text, return_tensors="pt")
with torch.no_grad():
    logits = model(**inputs).logits
np.savez(out, logits=logits.numpy(), **{name: value.numpy() for name, value in inputs.items()})
assert "flaxdistill" not in sys.modules and "jax" not in sys.modules
"""


@pytest.fixture
def server(monkeypatch):
    """A fake Hub that this process uses, with the token of the repositories' owner."""
    with hub_server.serving() as (hub, variables):
        monkeypatch.setattr(constants, "ENDPOINT", variables["HF_ENDPOINT"])
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", "hf_mine")
        close_session()
        yield hub
        close_session()


@pytest.fixture
def alone(monkeypatch):
    """Skip the comparison in a new process, which test_stablehlo.py tests."""
    monkeypatch.setattr(verify, "compare_in_new_process", lambda *_: None)


def files_of(folder) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_one_commit(server, alone, finished, tmp_path):
    """Create a repository; a second push deletes stale files of the export and no others."""
    out = succeed(
        "export", finished, tmp_path / "a", "--stablehlo", "--push", "me/student", "--private"
    )
    stored = server.repos["me/student"]
    assert stored.private and len(stored.commits) == 2
    assert f"pushed to me/student as {stored.commits[-1].sha[:12]}" in out and "hf_mine" not in out
    pushed = dict(stored.commits[-1].files)
    pushed.pop(".gitattributes")
    assert pushed == files_of(tmp_path / "a") and set(pushed) == FILES | {stablehlo.STABLEHLO}
    assert (
        "# student\n" in pushed["README.md"].decode()
        and '"me/student")' in pushed["README.md"].decode()
    )
    assert str(finished.parent).encode() not in b"".join(pushed.values())

    stored.commits[-1].files |= {"LICENSE": b"mine", "merges.txt": b"of an earlier student"}
    succeed("export", finished, tmp_path / "b", "--push", "me/student")
    assert len(stored.commits) == 3
    assert set(stored.commits[-1].files) == FILES | {".gitattributes", "LICENSE"}

    succeed("export", finished, tmp_path / "c", "--push", "me/student")
    assert len(stored.commits) == 3, "an unchanged export makes no commit"


CHANGES = r"^(POST|PUT|DELETE) /(?!api/validate-yaml)"


@pytest.mark.parametrize(
    ("token", "name", "flags", "message"),
    [
        (
            None,
            "me/new",
            (),
            "--push me/new needs a token; run hf auth login, or set HF_TOKEN",
        ),
        ("hf_wrong", "me/new", (), "the Hub does not know the token"),
        ("hf_nön-ascii", "me/new", (), "the push to me/new failed: "),
        ("hf_reading", "me/new", (), "the token may not write there"),
        ("hf_reading", "me/old", (), "the token may not write there"),
        ("hf_mine", "them/new", (), "the token may not write there"),
        ("hf_mine", "them/open", (), "the token may not write there"),
        ("hf_mine", "them/closed", (), "the token may not write there"),
        ("hf_mine", "me/old", ("--private",), "me/old exists and is public; omit --private"),
        ("hf_mine", "me", (), "--push 'me' is not the name of a repository; write it as USER/REPO"),
        ("hf_mine", "a/b/c", (), "--push 'a/b/c' is not the name of a repository"),
        ("hf_mine", "me/--", (), "--push 'me/--' is not the name of a repository"),
        ("hf_mine", "", (), "--push '' is not the name of a repository"),
    ],
)
def test_refused_tokens_and_names(
    server, alone, finished, tmp_path, monkeypatch, capfd, token, name, flags, message
):
    for repo, private in (("me/old", False), ("them/open", False), ("them/closed", True)):
        server.put(repo, private=private)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    else:
        monkeypatch.delenv("HF_TOKEN")
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    out = refused("export", finished, tmp_path / "out", "--push", name, *flags)
    assert message in out and out.count("\n") == 1
    assert token is None or token not in out + "".join(capfd.readouterr())
    assert list(tmp_path.iterdir()) == [] and set(server.repos) == {
        "me/old",
        "them/open",
        "them/closed",
    }
    assert all(len(stored.commits) == 1 for stored in server.repos.values())


def test_checks_before_reading_the_student(server, finished, tmp_path, monkeypatch):
    """Wrong tokens and unsuitable repositories are refused before a checkpoint is read."""
    monkeypatch.setattr(run_models, "read_student", None)
    server.put("me/old")
    refused("export", finished, tmp_path / "out", "--push", "me/old", "--private")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    refused("export", finished, tmp_path / "out", "--push", "me/old")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    out = refused("export", finished, tmp_path / "out", "--push", "me/old")
    assert "--push me/old needs the Hub but HF_HUB_OFFLINE is set; unset it to push" in out
    assert "--private needs --push" in refused("export", finished, tmp_path / "out", "--private")
    assert not [request for request in server.requests if re.match(CHANGES, request)]


@pytest.mark.parametrize("where", ["whoami", "preupload", "batch", "PUT /lfs", "commit/main"])
def test_broken_connection(server, alone, finished, tmp_path, monkeypatch, capfd, where):
    """Nothing changes in the repository or on the disk, and the same command then succeeds."""
    stored = server.put("me/old", **{"config.json": b"{}"})
    monkeypatch.setattr(_http, "time", types.SimpleNamespace(sleep=lambda seconds: None))
    server.interrupted = re.compile(where)
    export = ("export", finished, tmp_path / "out", "--push", "me/old")
    out = refused(*export)
    assert (
        "the push to me/old failed: the Hub cannot be reached, or the connection broke; run" in out
    )
    assert out.count("\n") == 1 and "hf_mine" not in out + "".join(capfd.readouterr())
    assert len(stored.commits) == 1 and list(tmp_path.iterdir()) == []
    assert any(where in request for request in server.requests), "broke at another request"
    server.interrupted = None
    succeed(*export)
    assert len(stored.commits) == 2 and set(stored.commits[-1].files) == FILES | {".gitattributes"}


def test_concurrent_commit(server, alone, finished, tmp_path, monkeypatch):
    stored = server.put("me/old")
    batch = hub_server._Handler.batch

    def commit_in_between(*arguments):
        stored.commits.append(hub_server.Commit("another", {"config.json": b"{}"}))
        return batch(*arguments)

    routes = tuple(
        (pattern, commit_in_between if answer is batch else answer)
        for pattern, answer in hub_server.ROUTES
    )
    monkeypatch.setattr(hub_server, "ROUTES", routes)
    out = refused("export", finished, tmp_path / "out", "--push", "me/old")
    reason = "the repository changed during the push; run the command again (HTTP status 412)"
    assert f"me/old failed: {reason}" in out
    assert [commit.message for commit in stored.commits] == ["initial commit", "another"]


def test_file_too_large(server, alone, finished, tmp_path, monkeypatch):
    stored = server.put("me/old")
    refusal = ("PUT .*", lambda handler, *_: handler.refuse(413))
    monkeypatch.setattr(hub_server, "ROUTES", (refusal, *hub_server.ROUTES))
    out = refused("export", finished, tmp_path / "out", "--push", "me/old")
    reason = "a file is larger than the Hub accepts (HTTP status 413)"
    assert f"the push to me/old failed: {reason}" in out
    assert len(stored.commits) == 1


@pytest.mark.hf
@pytest.mark.torch
def test_pulled_by_transformers(finished, tmp_path):
    """A process without flaxdistill loads the pushed student and computes the same logits."""
    with hub_server.serving() as (server, variables):
        owner = environment(HF_HOME=str(tmp_path / "home"), HF_TOKEN="hf_mine") | variables
        command = ("export", finished, tmp_path / "out", "--push", "me/student", "--private")
        process = subprocess.run(
            [sys.executable, "-m", "flaxdistill", *map(str, command)],
            capture_output=True,
            text=True,
            env=owner,
        )
        assert process.returncode == 0, process.stderr
        assert "outputs equal to 1e-05 in a new process, pushed to me/student" in process.stdout
        assert "hf_mine" not in process.stdout + process.stderr and process.stderr == ""
        assert server.repos["me/student"].private and len(server.repos["me/student"].commits) == 2

        def pull(token: str) -> subprocess.CompletedProcess:
            plain = {name: value for name, value in owner.items() if name != "PYTHONPATH"} | {
                "HF_TOKEN": token
            }
            command = [
                sys.executable,
                "-P",
                "-c",
                PULL,
                "the cat [MASK] a dog.",
                str(tmp_path / "outputs.npz"),
            ]
            return subprocess.run(command, capture_output=True, text=True, env=plain, cwd=tmp_path)

        stranger = pull("hf_theirs")
        assert stranger.returncode == 1 and "me/student" in stranger.stderr
        process = pull("hf_mine")
        assert process.returncode == 0, process.stderr
    arrays = np.load(tmp_path / "outputs.npz", allow_pickle=False)
    student = run_models.read_model(str(finished))
    forward = stablehlo.make_forward(student)
    inputs = [arrays[name].astype(np.int32) for name in student.input_names()]
    logits = forward(student.family.write(student.config, student.params), *inputs)["logits"]
    np.testing.assert_allclose(logits, arrays["logits"], atol=1e-5)

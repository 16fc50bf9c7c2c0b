"""What is pushed to the Hub by one commit, and what plain `transformers` pulls from there."""

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

from flaxdistill.experiment import workdir
from flaxdistill.hub import stablehlo, verify

FILES = {"README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}

# Of the client's own making, when it sends a file by itself and not by Xet.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

PULL = """
import sys
import numpy as np, torch, transformers
text, out = sys.argv[1:]
tokenizer = transformers.AutoTokenizer.from_pretrained("me/student")
model = transformers.AutoModelForMaskedLM.from_pretrained("me/student").eval()
given = tokenizer(text, return_tensors="pt")
with torch.no_grad():
    logits = model(**given).logits
np.savez(out, logits=logits.numpy(), **{name: value.numpy() for name, value in given.items()})
assert "flaxdistill" not in sys.modules and "jax" not in sys.modules
"""


@pytest.fixture
def server(monkeypatch):
    """A Hub that this process asks as well, by the token of its owner."""
    with hub_server.serving() as (found, told):
        monkeypatch.setattr(constants, "ENDPOINT", told["HF_ENDPOINT"])
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", "hf_mine")
        close_session()
        yield found
        close_session()


@pytest.fixture
def alone(monkeypatch):
    """Without the process of its own, which has tests of its own."""
    monkeypatch.setattr(verify, "compare", lambda *_: None)


def files_of(folder) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_one_commit(server, alone, finished, tmp_path):
    """Into a repository that it makes, and then into the same one, which keeps what is not a model's."""
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
    assert len(stored.commits) == 3, "what is there already is no commit"


CHANGES = r"^(POST|PUT|DELETE) /(?!api/validate-yaml)"


@pytest.mark.parametrize(
    ("token", "name", "flags", "told"),
    [
        (
            None,
            "me/new",
            (),
            "--push me/new needs a token; log in by hf auth login, or set HF_TOKEN",
        ),
        ("hf_wrong", "me/new", (), "the Hub does not know the token"),
        ("hf_nön-ascii", "me/new", (), "the push to me/new failed: "),
        ("hf_reading", "me/new", (), "the token may not write there"),
        ("hf_reading", "me/old", (), "the token may not write there"),
        ("hf_mine", "them/new", (), "the token may not write there"),
        ("hf_mine", "them/open", (), "the token may not write there"),
        ("hf_mine", "them/closed", (), "the token may not write there"),
        ("hf_mine", "me/old", ("--private",), "me/old is there and public; leave --private out"),
        ("hf_mine", "me", (), "--push 'me' is no name of a repository; write it as USER/REPO"),
        ("hf_mine", "a/b/c", (), "--push 'a/b/c' is no name of a repository"),
        ("hf_mine", "me/--", (), "--push 'me/--' is no name of a repository"),
        ("hf_mine", "", (), "--push '' is no name of a repository"),
    ],
)
def test_who_may_not(
    server, alone, finished, tmp_path, monkeypatch, capfd, token, name, flags, told
):
    for there, private in (("me/old", False), ("them/open", False), ("them/closed", True)):
        server.put(there, private=private)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    else:
        monkeypatch.delenv("HF_TOKEN")
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    out = refused("export", finished, tmp_path / "out", "--push", name, *flags)
    assert told in out and out.count("\n") == 1
    assert token is None or token not in out + "".join(capfd.readouterr())
    assert list(tmp_path.iterdir()) == [] and set(server.repos) == {
        "me/old",
        "them/open",
        "them/closed",
    }
    assert all(len(stored.commits) == 1 for stored in server.repos.values())


def test_what_is_known_before_the_work(server, finished, tmp_path, monkeypatch):
    """A token that is none, and a repository that is not as it must be, are told before a checkpoint is read."""
    monkeypatch.setattr(workdir, "read_student", None)
    server.put("me/old")
    refused("export", finished, tmp_path / "out", "--push", "me/old", "--private")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    refused("export", finished, tmp_path / "out", "--push", "me/old")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    out = refused("export", finished, tmp_path / "out", "--push", "me/old")
    assert "--push me/old needs the Hub and HF_HUB_OFFLINE is set; unset it to push" in out
    assert "--private says how to --push" in refused(
        "export", finished, tmp_path / "out", "--private"
    )
    assert not [asked for asked in server.asked if re.match(CHANGES, asked)]


@pytest.mark.parametrize("where", ["whoami", "preupload", "batch", "PUT /lfs", "commit/main"])
def test_a_connection_that_breaks(server, alone, finished, tmp_path, monkeypatch, capfd, where):
    """The repository is as it was, nothing is left here, and the same command then does it all."""
    stored = server.put("me/old", **{"config.json": b"{}"})
    monkeypatch.setattr(_http, "time", types.SimpleNamespace(sleep=lambda seconds: None))
    server.cut = re.compile(where)
    export = ("export", finished, tmp_path / "out", "--push", "me/old")
    out = refused(*export)
    assert (
        "the push to me/old failed: the Hub cannot be reached, or the connection broke; run" in out
    )
    assert out.count("\n") == 1 and "hf_mine" not in out + "".join(capfd.readouterr())
    assert len(stored.commits) == 1 and list(tmp_path.iterdir()) == []
    assert [asked for asked in server.asked if where in asked], "it was not there that it broke"
    server.cut = None
    succeed(*export)
    assert len(stored.commits) == 2 and set(stored.commits[-1].files) == FILES | {".gitattributes"}


def test_somebody_else_was_faster(server, alone, finished, tmp_path, monkeypatch):
    stored = server.put("me/old")
    batch = hub_server._Handler.batch

    def meanwhile(*told):
        stored.commits.append(hub_server.Commit("another", {"config.json": b"{}"}))
        return batch(*told)

    routes = tuple(
        (pattern, meanwhile if answer is batch else answer) for pattern, answer in hub_server.ROUTES
    )
    monkeypatch.setattr(hub_server, "ROUTES", routes)
    out = refused("export", finished, tmp_path / "out", "--push", "me/old")
    assert "me/old failed: it was changed meanwhile; run the command again (it answers 412)" in out
    assert [commit.told for commit in stored.commits] == ["initial commit", "another"]


def test_a_store_that_refuses_a_file(server, alone, finished, tmp_path, monkeypatch):
    stored = server.put("me/old")
    monkeypatch.setattr(
        hub_server, "ROUTES", (("PUT .*", lambda asked, *_: asked.refuse(413)), *hub_server.ROUTES)
    )
    out = refused("export", finished, tmp_path / "out", "--push", "me/old")
    assert "the push to me/old failed: a file is larger than it takes (it answers 413)" in out
    assert len(stored.commits) == 1


@pytest.mark.hf
@pytest.mark.torch
def test_pulled_by_transformers(finished, tmp_path):
    """Exported and pushed by one process, pulled by another that has no flaxdistill: the student's own logits."""
    with hub_server.serving() as (server, told):
        mine = environment() | told | {"HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "hf_mine"}
        verb = ("export", finished, tmp_path / "out", "--push", "me/student", "--private")
        done = subprocess.run(
            [sys.executable, "-m", "flaxdistill", *map(str, verb)],
            capture_output=True,
            text=True,
            env=mine,
        )
        assert done.returncode == 0, done.stderr
        assert "the same to 1e-05 in a process of its own, pushed to me/student" in done.stdout
        assert "hf_mine" not in done.stdout + done.stderr and done.stderr == ""
        assert server.repos["me/student"].private and len(server.repos["me/student"].commits) == 2

        def pull(token: str) -> subprocess.CompletedProcess:
            plain = {name: value for name, value in mine.items() if name != "PYTHONPATH"} | {
                "HF_TOKEN": token
            }
            command = [
                sys.executable,
                "-P",
                "-c",
                PULL,
                "the cat [MASK] a dog.",
                str(tmp_path / "said.npz"),
            ]
            return subprocess.run(command, capture_output=True, text=True, env=plain, cwd=tmp_path)

        stranger = pull("hf_theirs")
        assert stranger.returncode == 1 and "me/student" in stranger.stderr
        done = pull("hf_mine")
        assert done.returncode == 0, done.stderr
    said = np.load(tmp_path / "said.npz", allow_pickle=False)
    student = workdir.read_model(str(finished))
    call = stablehlo.make_call(student.family, student.config)
    given = [said[name].astype(np.int32) for name in stablehlo.inputs(student.family)]
    logits = call(student.family.write(student.config, student.params), *given)["logits"]
    np.testing.assert_allclose(logits, said["logits"], atol=1e-5)

"""Models at rest: what is refused and in what words, shards, the Hub, whole directories, both layouts."""

import dataclasses
import hashlib
import http.server
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import threading
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from helpers.paths import ROOT
from helpers.tiny import tiny_config

from flaxdistill.errors import UserError
from flaxdistill.hub import families
from flaxdistill.hub.checkpoint import read_model, resolve, write_model
from flaxdistill.hub.convert import convert
from flaxdistill.models.encoder import make_init
from flaxdistill.param_paths import flatten, unflatten

BERT = families.family("bert")
CONFIG = tiny_config()
TOKEN = "hf_neverToBePrinted"


def params_of(config=CONFIG, dtype=np.float32):
    params = make_init(config)(jax.random.key(0))
    return jax.tree.map(lambda leaf: np.asarray(leaf).astype(dtype), params)


@pytest.fixture(scope="module")
def params():
    return params_of()


@pytest.fixture
def saved(tmp_path, params) -> Path:
    """A good directory, to be broken."""
    write_model(tmp_path / "model", family=BERT, config=CONFIG, params=params, tokenizer=None)
    return tmp_path / "model"


def refused(source, *words: str) -> str:
    """The one sentence with which a source is refused; it holds all the words."""
    with pytest.raises(UserError) as caught:
        read_model(str(source))
    said = str(caught.value)
    assert "\n" not in said
    for word in words:
        assert word in said, said
    return said


def change_json(file: Path, **fields) -> None:
    given = json.loads(file.read_text()) | fields
    file.write_text(json.dumps({key: value for key, value in given.items() if value is not ...}))


def same(a, b) -> None:
    a, b = flatten(a), flatten(b)
    assert set(a) == set(b)
    for path in a:
        assert a[path].dtype == b[path].dtype, path
        assert np.array_equal(
            np.ascontiguousarray(a[path]).view(np.uint8),
            np.ascontiguousarray(b[path]).view(np.uint8),
        )


# Where a model is looked for.


@pytest.mark.parametrize(
    "name", ["/no/where", "./teacher", "~/no/teacher", "teacher", "a/b/c", "../x/y", "user/repo@"]
)
def test_a_missing_directory(name):
    with pytest.raises(
        UserError,
        match=f"there is no directory {re.escape(name)}; give one that exists or the id of",
    ):
        resolve(name)


def test_a_file_for_a_directory(saved):
    refused(
        saved / "model.safetensors", "model.safetensors is a file; give the directory that holds it"
    )


# Configs.


def test_no_config(saved):
    (saved / "config.json").unlink()
    refused(saved, f"{saved} has no config.json; give the directory of a saved model")


@pytest.mark.parametrize("text", ["{", '{"a": 1,}', "\ufeff{}", "[" * 100_000])
def test_a_config_that_is_no_json(saved, text):
    (saved / "config.json").write_text(text)
    refused(saved, "config.json is no valid JSON (", "; save or fetch it again")


def test_a_config_that_is_no_object(saved):
    (saved / "config.json").write_text("[1]")
    refused(saved, "config.json holds a list where a JSON object belongs")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"model_type": "gpt2"},
            "model_type 'gpt2' is not a family known here; known are bert, distilbert",
        ),
        ({"model_type": ...}, "model_type is missing; write a text"),
        ({"hidden_size": ...}, "hidden_size is missing; write a whole number"),
        ({"hidden_size": "16"}, "hidden_size is '16'; write a whole number"),
        ({"num_attention_heads": True}, "num_attention_heads is True; write a whole number"),
        ({"num_attention_heads": 3}, "hidden_size 16 is not divisible by num_heads 3"),
        ({"vocab_size": -1}, "vocab_size is -1; it must be at least 1"),
        ({"layer_norm_eps": []}, "layer_norm_eps is []; write a number"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings is 'no'; write true or false"),
        (
            {"hidden_act": ["gelu"]},
            "hidden_act is ['gelu']; only 'gelu' or 'gelu_new' or 'relu' can be computed here",
        ),
        (
            {"position_embedding_type": "relative_key"},
            "position_embedding_type is 'relative_key'; only 'absolute'",
        ),
    ],
)
def test_a_config_that_cannot_be(saved, fields, said):
    change_json(saved / "config.json", **fields)
    refused(saved, f"{saved / 'config.json'}: {said}")


def test_a_config_of_endless_layers(saved):
    change_json(saved / "config.json", num_hidden_layers=1000)
    refused(saved, "config.json asks for 1000 layers and the file holds 42 tensors in all")


def test_a_config_of_another_size(saved):
    change_json(saved / "config.json", vocab_size=2**30)
    refused(
        saved, f"word_embeddings.weight has shape [60, 16] where the config asks for [{2**30}, 16]"
    )


def test_null_and_whole_numbers_are_fine(saved):
    change_json(saved / "config.json", pad_token_id=None, hidden_dropout_prob=0)
    assert read_model(str(saved)).config == dataclasses.replace(CONFIG, dropout=0.0)


# Weights.


def test_no_weights(saved):
    (saved / "model.safetensors").unlink()
    refused(
        saved,
        f"{saved} has no model.safetensors; give a model saved by transformers' save_pretrained",
    )


@pytest.mark.parametrize(
    ("name", "said", "way"),
    [
        (
            "pytorch_model.bin",
            "is a pickle, which can run code, and is never read",
            "use transformers: AutoModelForMaskedLM",
        ),
        (
            "model.pt",
            "is a pickle, which can run code, and is never read",
            ".save_pretrained(NEW, safe_serialization=True)",
        ),
        ("state.pkl", "is a pickle, which can run code, and is never read", ".save_pretrained(NEW"),
        (
            "tf_model.h5",
            "is in another format and is never read",
            "transformers 4: AutoModelForMaskedLM.from_pretrained",
        ),
        ("flax_model.msgpack", "is in another format and is never read", "from_flax=True"),
    ],
)
def test_weights_in_another_format(saved, name, said, way):
    (saved / "model.safetensors").rename(saved / name)
    refused(saved, f"has no model.safetensors, and {name} {said}", way)


def test_code_in_a_config_is_not_looked_at(saved):
    (saved / "evil.py").write_text("raise SystemExit('ran')")
    change_json(saved / "config.json", auto_map={"AutoModelForMaskedLM": "evil.Model"})
    assert read_model(str(saved)).config == CONFIG


def test_truncated(saved):
    file = saved / "model.safetensors"
    whole = file.read_bytes()
    for length in (0, 5, 8, 100, len(whole) - 1):
        file.write_bytes(whole[:length])
        refused(saved, f"{file} is damaged or no safetensors file (", "); fetch or copy it again")


def tensor(offsets, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    ("header", "data", "length"),
    [
        ({"a": tensor([0, 8])}, 8, 2**60),
        ({"a": tensor([0, 8])}, 8, 2**64 - 1),
        ({"a": tensor([0, 8])}, 8, 90 * 2**20),
        ({"a": tensor([0, 8], [2**40, 2**20])}, 8, None),
        ({"a": tensor([0, 2**62], [2**60])}, 8, None),
        ({"a": tensor([0, 0], [2**63, 2])}, 0, None),
        ({"a": tensor([0, 8], [-2])}, 8, None),
        ({"a": tensor([0, 8], [3])}, 8, None),
        ({"a": tensor([0, 8]), "b": tensor([4, 12])}, 12, None),
        ({"a": tensor([0, 8]), "b": tensor([8, 16])}, 8, None),
        ({"a": tensor([4, 12])}, 12, None),
        ({"a": tensor([0, 8])}, 16, None),
        ({"a": tensor([0, 8], dtype="PICKLE")}, 8, None),
        ([1], 0, None),
    ],
)
def test_a_header_that_lies(saved, header, data, length):
    """Each is refused by the header alone: what most of them claim could not be allocated."""
    text = json.dumps(header).encode()
    file = saved / "model.safetensors"
    file.write_bytes(
        struct.pack("<Q", len(text) if length is None else length) + text + bytes(data)
    )
    refused(saved, f"{file} is damaged or no safetensors file (")


def test_dtypes_that_are_not_read(saved):
    text = json.dumps(
        {
            "a": tensor([0, 2], dtype="F8_E4M3"),
            "b": tensor([2, 10], dtype="I32"),
            "c": tensor([10, 18]),
        }
    ).encode()
    (saved / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(18))
    refused(saved, "model.safetensors holds a F8_E4M3, b I32; only BF16, F16, F32, F64 can be read")


def test_an_unreadable_file(saved):
    (saved / "model.safetensors").unlink()
    (saved / "model.safetensors").mkdir()
    refused(saved, f"cannot read {saved / 'model.safetensors'}: ")


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_dtypes_that_are_kept(tmp_path, dtype):
    params = params_of(dtype=dtype)
    write_model(tmp_path / "m", family=BERT, config=CONFIG, params=params, tokenizer=None)
    same(read_model(str(tmp_path / "m")).params, params)
    described = json.loads((tmp_path / "m" / "config.json").read_text())
    assert described["dtype"] == described["torch_dtype"] == np.dtype(dtype).name


# Shards.


def shard(saved: Path, *, split: int = 20) -> dict:
    """Cut a saved model in two files and an index; gives the index's weight_map."""
    tensors = safetensors.numpy.load_file(saved / "model.safetensors")
    (saved / "model.safetensors").unlink()
    names = sorted(tensors)
    where = {}
    for i, part in enumerate((names[:split], names[split:]), 1):
        file = f"model-0000{i}-of-00002.safetensors"
        safetensors.numpy.save_file({name: tensors[name] for name in part}, saved / file)
        where |= dict.fromkeys(part, file)
    index(saved, where)
    return where


def index(saved: Path, where) -> None:
    (saved / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": where})
    )


def test_shards(saved, params):
    digest = read_model(str(saved)).digest
    shard(saved)
    model = read_model(str(saved))
    same(model.params, params)
    assert model.digest == digest


ELSEWHERE = (
    "../other.safetensors",
    "/etc/passwd",
    "/elsewhere/x.safetensors",
    "a/b.safetensors",
    "a\\b.safetensors",
)


@pytest.mark.parametrize(
    "name", [*ELSEWHERE, "a\0.safetensors", ".safetensors", "x.bin", "..", 3, None]
)
def test_an_index_that_points_elsewhere(saved, name):
    where = shard(saved)
    index(saved, where | {min(where): name})
    refused(saved, f"names the file {name!r}; a shard is a .safetensors file beside its index")


@pytest.mark.parametrize("where", [None, [], {}, "x"])
def test_an_index_without_a_map(saved, where):
    shard(saved)
    index(saved, where)
    refused(saved, "model.safetensors.index.json has no weight_map from tensors to files")


def test_a_missing_shard(saved):
    shard(saved)
    (saved / "model-00002-of-00002.safetensors").unlink()
    refused(
        saved,
        f"{saved} has no model-00002-of-00002.safetensors, which model.safetensors.index.json names",
    )


def test_a_tensor_in_two_shards(saved):
    where = shard(saved)
    second = saved / "model-00002-of-00002.safetensors"
    name = min(where)
    safetensors.numpy.save_file(
        safetensors.numpy.load_file(second) | {name: np.ones(60, np.float32)}, second
    )
    refused(saved, f"{second} holds {name} that another shard holds too")


def test_an_index_that_disagrees(saved):
    where = shard(saved)
    name = sorted(where)[3]
    index(saved, {n: f for n, f in where.items() if n != name} | {"more": where[name]})
    refused(saved, f"index.json and its shards disagree on {', '.join(sorted([name, 'more']))}")


# Digests.


def test_the_digest_tells_models_apart(tmp_path, params):
    def digest(name, family=BERT, config=CONFIG, params=params):
        write_model(tmp_path / name, family=family, config=config, params=params, tokenizer=None)
        return read_model(str(tmp_path / name)).digest

    flat = flatten(params)
    bias = flat["mlm/bias"].copy()
    bias[7] = 1e-30
    first = digest("a")
    assert first == digest("b")
    others = {
        digest("value", params=unflatten(flat | {"mlm/bias": bias})),
        digest("dtype", params=jax.tree.map(lambda leaf: leaf.astype(np.float64), params)),
        digest("heads", config=dataclasses.replace(CONFIG, num_heads=2)),
        digest("activation", config=dataclasses.replace(CONFIG, activation="relu")),
    }
    assert len(others) == 4 and first not in others
    assert first == digest("dropout", config=dataclasses.replace(CONFIG, dropout=0.0))


# Writing.


def test_what_is_written(tmp_path, params):
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    (tokenizer / "vocab.txt").write_text("[PAD]\n")
    (tokenizer / "notes.txt").write_text("private")
    (tokenizer / "vocab.txt").chmod(0o400)
    kept = {"tokenizer_class": "TokenizersBackend", "do_lower_case": True}
    told = {"is_local": True, "local_files_only": False, "name_or_path": "/home/me", "auto_map": {}}
    (tokenizer / "tokenizer_config.json").write_text(json.dumps(kept | told))
    out = tmp_path / "deep" / "er" / "out"
    write_model(
        out, family=BERT, config=CONFIG, params=params, tokenizer=tokenizer, card="# Card\n"
    )
    names = ["README.md", "config.json", "model.safetensors", "tokenizer_config.json", "vocab.txt"]
    assert sorted(file.name for file in out.iterdir()) == names
    assert (out / "README.md").read_text() == "# Card\n"
    cleaned = json.loads((out / "tokenizer_config.json").read_text())
    names = ["input_ids", "token_type_ids", "attention_mask"]
    assert cleaned == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "do_lower_case": True,
        "model_input_names": names,
        "model_max_length": CONFIG.max_positions,
    }
    described = json.loads((out / "config.json").read_text())
    assert described["architectures"] == ["BertForMaskedLM"] and described["model_type"] == "bert"
    assert described["tie_word_embeddings"] is True
    with safetensors.safe_open(out / "model.safetensors", "numpy") as file:
        assert file.metadata() == {"format": "pt"}
    assert len({file.stat().st_mode for file in out.iterdir()}) == 1
    assert os.listdir(out.parent) == ["out"]


def test_a_full_directory_is_not_written_over(saved, params):
    with pytest.raises(
        UserError, match="model exists and is not an empty directory; give another or remove it"
    ):
        write_model(saved, family=BERT, config=CONFIG, params=params, tokenizer=None)
    (saved.parent / "empty").mkdir()
    write_model(saved.parent / "empty", family=BERT, config=CONFIG, params=params, tokenizer=None)
    assert read_model(str(saved.parent / "empty")).digest == read_model(str(saved)).digest


@pytest.mark.parametrize(
    ("family", "config", "said"),
    [
        ("distilbert", tiny_config(), "a distilbert has no token types"),
        ("distilbert", tiny_config(type_vocab_size=0, pooler=True), "a distilbert has no pooler"),
        (
            "distilbert",
            tiny_config(type_vocab_size=0, norm_eps=1e-5),
            "fixes the norms' epsilon at 1e-12",
        ),
        ("bert", tiny_config(type_vocab_size=0), "a bert has token types and the model has none"),
        ("bert", tiny_config(head_norm_eps=1e-5), "a bert has one epsilon for all its norms"),
    ],
)
def test_what_a_family_cannot_be(family, config, said):
    with pytest.raises(UserError, match=said):
        families.family(family).write_config(config)


def run(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    keep = {
        key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))
    }
    root = str(ROOT)
    env = (
        keep | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": root, "HF_HUB_DISABLE_XET": "1"} | environment
    )
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


LIMITED = """
import resource, sys
from pathlib import Path
from flaxdistill.hub.convert import convert
from flaxdistill.errors import UserError
from flaxdistill.hub.checkpoint import read_model, write_model
source, out, verb = sys.argv[1:]
m = read_model(source)
limit = 8192
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    if verb == "write":
        write_model(out, family=m.family, config=m.config, params=m.params, tokenizer=None)
    else:
        convert(source, Path(out))
except UserError as error:
    print(error)
"""


@pytest.mark.parametrize("verb", ["write", "convert"])
def test_a_write_that_fails_leaves_nothing(tmp_path, verb):
    config = tiny_config(vocab_size=5000, hidden_size=64)
    source, out = tmp_path / "source", tmp_path / "place" / "out"
    write_model(source, family=BERT, config=config, params=params_of(config), tokenizer=None)
    done = run(LIMITED, str(source), str(out), verb)
    assert done.stdout.startswith(f"cannot write {out}: "), done
    assert done.stdout.endswith("; nothing was left there\n") and done.stdout.count("\n") == 1
    assert "File too large" in done.stdout
    assert verb == "convert" or done.stderr == "", done.stderr  # orbax's threads have much to say
    assert os.listdir(out.parent) == []


# Both layouts.


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("family", families.known())
def test_converted_and_back(tmp_path, family, dtype):
    config = tiny_config(
        type_vocab_size=2 if "embeddings/token_type" in families.family(family).encoder else 0,
        tied_head=False,
    )
    params = params_of(config, dtype)
    (tmp_path / "vocab.txt").write_text("[PAD]\n")
    a, b, c = (tmp_path / name for name in "abc")
    write_model(a, family=families.family(family), config=config, params=params, tokenizer=tmp_path)
    assert convert(str(a), b) == f"{a} -> {b}: converted directory ({family}, 2 layers of 16)"
    assert sorted(os.listdir(b)) == ["model.json", "params", "vocab.txt"]
    model = read_model(str(b))
    same(model.params, params)
    assert (model.config, model.family.model_type, model.directory) == (config, family, b)
    assert convert(str(b), c) == f"{b} -> {c}: Hugging Face directory ({family}, 2 layers of 16)"
    for name in ("config.json", "model.safetensors", "vocab.txt"):
        assert (a / name).read_bytes() == (c / name).read_bytes(), name
    assert read_model(str(a)).digest == model.digest == read_model(str(c)).digest


@pytest.fixture
def converted(saved) -> Path:
    convert(str(saved), saved.parent / "converted")
    return saved.parent / "converted"


def test_convert_refuses_a_full_directory(saved, converted):
    with pytest.raises(UserError, match="converted exists and is not an empty directory"):
        convert(str(saved), converted)


def test_a_directory_of_both_layouts(saved, converted):
    (saved / "config.json").rename(converted / "config.json")
    refused(converted, "holds both config.json and model.json", "remove the wrong one")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"format": 2}, "has format 2 and 1 is known here"),
        ({"family": "gpt2"}, "model_type 'gpt2' is not a family known here"),
        ({"family": 3}, "family is 3; write a text"),
        ({"config": None}, "config is missing"),
        ({"config": {"vocab_size": 3}}, "config differs in activation, "),
        ({"digest": "0"}, "says 0; convert the model again"),
    ],
)
def test_a_model_json_that_cannot_be(converted, fields, said):
    change_json(converted / "model.json", **fields)
    refused(converted, said)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"num_layers": 3},
            "is not the model that model.json describes: see layer_2/attention/bias",
        ),
        ({"num_layers": 1000}, "model.json asks for 1000 layers and "),
        ({"vocab_size": 10**9}, "see embeddings/word/embedding, mlm/bias"),
        ({"vocab_size": "60"}, "vocab_size is '60'; write a whole number"),
        ({"activation": "silu"}, "activation is 'silu'; known are gelu, gelu_new, relu"),
        ({"num_heads": 2}, "has digest "),
    ],
)
def test_a_converted_config_that_cannot_be(converted, fields, said):
    config = json.loads((converted / "model.json").read_text())["config"]
    change_json(converted / "model.json", config=config | fields)
    refused(converted, said)


def test_damaged_parameters(converted):
    one = next(file for file in sorted(converted.glob("params/**/d/*")) if file.is_file())
    name = one.relative_to(converted / "params").as_posix()
    whole = one.read_bytes()
    for damaged in (whole[:-1], whole + b"x", bytes([whole[0] ^ 1]) + whole[1:], None):
        if damaged is None:
            one.unlink()
        else:
            one.write_bytes(damaged)
        refused(
            converted,
            f"{converted / 'params'} is not what model.json lists: see {name}; convert the model again",
        )
    shutil.rmtree(converted / "params")
    refused(converted, "is not what model.json lists: see ")
    change_json(converted / "model.json", files={})
    refused(
        converted,
        f"{converted / 'params'} is damaged or no parameters (",
        "; convert the model again",
    )


# The Hub.


class Hub(http.server.BaseHTTPRequestHandler):
    """The Hub's read routes over one folder: good/model is it, private/model says 401."""

    folder: Path
    authorizations: set = set()  # noqa: RUF012

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", **headers):
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
            # A server's own words are not to be trusted with the token either.
            self.answer(401, X_Error_Message=f"bad {self.headers.get('Authorization')}")
        elif path.startswith("/api/models/broken/model"):
            self.answer(400, X_Error_Message="what?")
        elif (
            re.fullmatch(r"/api/models/good/model/revision/(main|v1\.0|a{40})", path)
            or path == "/api/models/good/model"
        ):
            told = {
                "id": "good/model",
                "sha": sha,
                "siblings": [{"rfilename": name} for name in names],
            }
            self.answer(200, json.dumps(told).encode(), Content_Type="application/json")
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
            self.answer(200, json.dumps(rows).encode(), Content_Type="application/json")
        elif (found := re.fullmatch(rf"/good/model/resolve/{sha}/(.+)", path)) and found[
            1
        ] in names:
            file = self.folder / found[1]
            self.answer(200, file.read_bytes(), ETag=f'"{etag(file)}"', X_Repo_Commit=sha)
        elif path.startswith("/api/models/good/model/revision/"):
            self.answer(404, X_Error_Code="RevisionNotFound")
        elif path.startswith("/api/models/"):
            self.answer(404, X_Error_Code="RepoNotFound")
        else:
            self.answer(404)

    do_HEAD = do_GET


def etag(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()


@pytest.fixture
def hub(saved):
    (saved / "vocab.txt").write_text("[PAD]\n")
    (saved / "pytorch_model.bin").write_text("never fetched")
    handler = type("Folder", (Hub,), {"folder": saved, "authorizations": set()})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


FETCH = """
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


def test_the_hub(hub, saved, tmp_path):
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
    done = run(FETCH, *sources, HF_HOME=str(tmp_path / "cache"), **environment)
    assert TOKEN not in done.stdout + done.stderr and "Traceback" not in done.stderr
    assert f"Bearer {TOKEN}" in hub.RequestHandlerClass.authorizations
    fetched = f"{read_model(str(saved)).digest} ['config.json', 'model.safetensors', 'vocab.txt']"
    cannot = "is no directory here, and as a Hub model it cannot be fetched:"
    assert done.stdout.splitlines() == [
        fetched,
        fetched,
        f"good/model@v2 {cannot} it has no such revision; check the part after @",
        f"no/model {cannot} the Hub answers 404; check the id, and HF_TOKEN if it is private",
        f"private/model {cannot} the Hub answers 401; check the id, and HF_TOKEN if it is private",
        f"broken/model {cannot} the Hub answers 400; try again, or give a local directory",
        f"bad--id/x {cannot} that is no valid id; it is written user/repo or user/repo@revision",
    ]


def test_the_hub_out_of_reach(tmp_path):
    done = run(FETCH, "good/model", HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1", HF_TOKEN=TOKEN)
    assert done.stdout == (
        "good/model is no directory here, and as a Hub model it cannot be fetched: the Hub cannot be "
        "reached and there is no copy in its cache; give a local directory\n"
    ), done
    assert TOKEN not in done.stderr and "Traceback" not in done.stderr

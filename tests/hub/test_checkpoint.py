"""Hugging Face directories: configs that are refused, digests, and what is written."""

import dataclasses
import json
import os

import jax
import numpy as np
import pytest
import safetensors.numpy
from helpers.checkpoints import BERT, CONFIG, assert_refused, edit_json, make_params, run_code
from helpers.tiny import tiny_config

from flaxdistill.errors import UserError
from flaxdistill.hub import families
from flaxdistill.hub.checkpoint import read_model, write_model
from flaxdistill.param_paths import flatten, unflatten


def test_missing_config(saved):
    (saved / "config.json").unlink()
    assert_refused(saved, f"{saved} has no config.json; give the directory of a saved model")


@pytest.mark.parametrize("text", ["{", '{"a": 1,}', "\ufeff{}", "[" * 100_000])
def test_config_is_not_json(saved, text):
    (saved / "config.json").write_text(text)
    assert_refused(saved, "config.json is not valid JSON (", "; save or download it again")


def test_config_is_not_an_object(saved):
    (saved / "config.json").write_text("[1]")
    assert_refused(saved, "config.json holds a list instead of a JSON object")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"model_type": "gpt2"},
            "model_type 'gpt2' is not supported; supported are bert, distilbert",
        ),
        (
            {"model_type": ..., "hidden_size": ...},
            'model_type is missing; write "model_type": and one of bert, distilbert',
        ),
        ({"hidden_size": ...}, "hidden_size is missing; write a whole number"),
        ({"hidden_size": "16"}, "hidden_size is '16'; write a whole number"),
        ({"num_attention_heads": True}, "num_attention_heads is True; write a whole number"),
        ({"num_attention_heads": 3}, "hidden_size 16 is not divisible by num_heads 3"),
        ({"vocab_size": -1}, "vocab_size is -1; it must be at least 1"),
        ({"layer_norm_eps": []}, "layer_norm_eps is []; write a number"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings is 'no'; write true or false"),
        (
            {"hidden_act": ["gelu"]},
            "hidden_act is ['gelu']; only 'gelu', ",
        ),
        (
            {"position_embedding_type": "relative_key"},
            "position_embedding_type is 'relative_key'; only 'absolute'",
        ),
    ],
)
def test_invalid_config(saved, fields, message):
    edit_json(saved / "config.json", **fields)
    assert_refused(saved, f"{saved / 'config.json'}: {message}")


def test_too_many_layers(saved):
    edit_json(saved / "config.json", num_hidden_layers=1000)
    assert_refused(saved, "config.json has 1000 layers but the file holds only 42 tensors")


def test_config_of_another_size(saved):
    edit_json(saved / "config.json", vocab_size=2**30)
    assert_refused(
        saved, f"word_embeddings.weight has shape [60, 16] but the config requires [{2**30}, 16]"
    )


def test_null_and_integer_values(saved):
    edit_json(saved / "config.json", pad_token_id=None, hidden_dropout_prob=0)
    assert read_model(str(saved)).config == dataclasses.replace(CONFIG, dropout=0.0)


def test_code_in_config_is_ignored(saved):
    (saved / "evil.py").write_text("raise SystemExit('ran')")
    edit_json(saved / "config.json", auto_map={"AutoModelForMaskedLM": "evil.Model"})
    assert read_model(str(saved)).config == CONFIG


def test_digest_identifies_a_model(tmp_path, params):
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


def test_written_files(tmp_path, params):
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    (tokenizer / "vocab.txt").write_text("[PAD]\n")
    (tokenizer / "notes.txt").write_text("private")
    (tokenizer / "vocab.txt").chmod(0o400)
    fields = {"tokenizer_class": "TokenizersBackend", "do_lower_case": True}
    local_fields = {
        "is_local": True,
        "local_files_only": False,
        "name_or_path": "/home/me",
        "auto_map": {},
    }
    (tokenizer / "tokenizer_config.json").write_text(json.dumps(fields | local_fields))
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
    config = json.loads((out / "config.json").read_text())
    assert config["architectures"] == ["BertForMaskedLM"] and config["model_type"] == "bert"
    assert config["tie_word_embeddings"] is True
    with safetensors.safe_open(out / "model.safetensors", "numpy") as file:
        assert file.metadata() == {"format": "pt"}
    assert len({file.stat().st_mode for file in out.iterdir()}) == 1
    assert os.listdir(out.parent) == ["out"]


def test_nonempty_directory_is_refused(saved, params):
    with pytest.raises(
        UserError, match="model exists and is not an empty directory; give another or remove it"
    ):
        write_model(saved, family=BERT, config=CONFIG, params=params, tokenizer=None)
    (saved.parent / "empty").mkdir()
    write_model(saved.parent / "empty", family=BERT, config=CONFIG, params=params, tokenizer=None)
    assert read_model(str(saved.parent / "empty")).digest == read_model(str(saved)).digest


@pytest.mark.parametrize(
    ("family", "config", "message"),
    [
        ("distilbert", tiny_config(), "a distilbert has no token types"),
        ("distilbert", tiny_config(type_vocab_size=0, pooler=True), "a distilbert has no pooler"),
        (
            "distilbert",
            tiny_config(type_vocab_size=0, norm_eps=1e-5),
            "a distilbert has norms with epsilon 1e-12",
        ),
        ("bert", tiny_config(type_vocab_size=0), "a bert has token types but the model has none"),
        ("bert", tiny_config(head_norm_eps=1e-5), "a bert has one epsilon for all norms"),
    ],
)
def test_config_that_a_family_cannot_express(family, config, message):
    with pytest.raises(UserError, match=message):
        families.family(family).write_config(config)


LIMITED = """
import resource, sys
from pathlib import Path
from flaxdistill.hub.convert import convert
from flaxdistill.errors import UserError
from flaxdistill.hub.checkpoint import read_model, write_model
source, out, command = sys.argv[1:]
m = read_model(source)
limit = 8192
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    if command == "write":
        write_model(out, family=m.family, config=m.config, params=m.params, tokenizer=None)
    else:
        convert(source, Path(out))
except UserError as error:
    print(error)
"""


@pytest.mark.parametrize("command", ["write", "convert"])
def test_failed_write_leaves_nothing(tmp_path, command):
    config = tiny_config(vocab_size=5000, hidden_size=64)
    source, out = tmp_path / "source", tmp_path / "place" / "out"
    write_model(source, family=BERT, config=config, params=make_params(config), tokenizer=None)
    process = run_code(LIMITED, str(source), str(out), command)
    assert process.stdout.startswith(f"cannot write {out}: "), process
    assert process.stdout.endswith("; nothing was left there\n") and process.stdout.count("\n") == 1
    assert "File too large" in process.stdout
    assert command == "convert" or process.stderr == "", (
        process.stderr
    )  # orbax logs from its threads
    assert os.listdir(out.parent) == []

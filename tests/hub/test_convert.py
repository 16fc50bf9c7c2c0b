"""Converted directories: round trips, and damage that is refused."""

import json
import os
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from helpers.checkpoints import assert_refused, assert_same_params, edit_json, make_params
from helpers.tiny import tiny_config

from flaxdistill.errors import UserError
from flaxdistill.hub import families
from flaxdistill.hub.checkpoint import read_model, write_model
from flaxdistill.hub.convert import convert


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("family", families.known())
def test_round_trip(tmp_path, family, dtype):
    config = tiny_config(
        type_vocab_size=2 if "embeddings/token_type" in families.family(family).encoder else 0,
        tied_head=False,
    )
    params = make_params(config, dtype)
    (tmp_path / "vocab.txt").write_text("[PAD]\n")
    a, b, c = (tmp_path / name for name in "abc")
    write_model(a, family=families.family(family), config=config, params=params, tokenizer=tmp_path)
    assert convert(str(a), b) == f"{a} -> {b}: converted directory ({family}, 2 layers of 16)"
    assert sorted(os.listdir(b)) == ["model.json", "params", "vocab.txt"]
    model = read_model(str(b))
    assert_same_params(model.params, params)
    assert (model.config, model.family.model_type, model.directory) == (config, family, b)
    assert convert(str(b), c) == f"{b} -> {c}: Hugging Face directory ({family}, 2 layers of 16)"
    for name in ("config.json", "model.safetensors", "vocab.txt"):
        assert (a / name).read_bytes() == (c / name).read_bytes(), name
    assert read_model(str(a)).digest == model.digest == read_model(str(c)).digest


@pytest.fixture
def converted(saved) -> Path:
    convert(str(saved), saved.parent / "converted")
    return saved.parent / "converted"


def test_nonempty_directory_is_refused(saved, converted):
    with pytest.raises(UserError, match="converted exists and is not an empty directory"):
        convert(str(saved), converted)


def test_directory_with_both_layouts(saved, converted):
    (saved / "config.json").rename(converted / "config.json")
    assert_refused(converted, "holds both config.json (Hugging Face) and model.json (converted)")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format": 1}, "has format 1 but this version reads format 2"),
        ({"family": "gpt2"}, "model_type 'gpt2' is not supported"),
        ({"family": 3}, "family is 3; write a text"),
        ({"config": None}, "config is missing"),
        (
            {"config": {"class": "Bert", "vocab_size": 3}},
            "config has missing or unknown fields: activation, ",
        ),
        ({"digest": "0"}, "but model.json has 0; convert the model again"),
    ],
)
def test_invalid_model_json(converted, fields, message):
    edit_json(converted / "model.json", **fields)
    assert_refused(converted, message)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"num_layers": 3},
            "does not match the config in model.json: see layer_2/attention/bias",
        ),
        ({"num_layers": 1000}, "model.json has 1000 layers but "),
        ({"vocab_size": 10**9}, "see embeddings/word/embedding, mlm/bias"),
        ({"vocab_size": "60"}, "vocab_size is '60': str is not an instance of int"),
        (
            {"activation": "silu"},
            "activation is 'silu': str is not any of ('gelu', 'gelu_new', 'relu')",
        ),
        ({"num_heads": 2}, "has digest "),
    ],
)
def test_invalid_config(converted, fields, message):
    config = json.loads((converted / "model.json").read_text())["config"]
    edit_json(converted / "model.json", config=config | fields)
    assert_refused(converted, message)


def test_damaged_parameters(converted):
    file = next(path for path in sorted(converted.glob("params/**/d/*")) if path.is_file())
    name = file.relative_to(converted / "params").as_posix()
    whole = file.read_bytes()
    for damaged in (whole[:-1], whole + b"x", bytes([whole[0] ^ 1]) + whole[1:], None):
        if damaged is None:
            file.unlink()
        else:
            file.write_bytes(damaged)
        assert_refused(
            converted,
            f"{converted / 'params'} does not match the files listed in model.json: see {name}",
            "; convert the model again",
        )
    shutil.rmtree(converted / "params")
    assert_refused(converted, "does not match the files listed in model.json: see ")
    edit_json(converted / "model.json", files={})
    assert_refused(
        converted,
        f"{converted / 'params'} is damaged or is no orbax checkpoint (",
        "; convert the model again",
    )

"""Safetensors files: formats that are refused, damage, dtypes and shards."""

import json
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from helpers.checkpoints import (
    BERT,
    CONFIG,
    assert_refused,
    assert_same_params,
    make_params,
)

from flaxdistill.hub.checkpoint import read_model, write_model

INDEX = "model.safetensors.index.json"


def test_missing_weights(saved):
    (saved / "model.safetensors").unlink()
    assert_refused(
        saved,
        f"{saved} has no model.safetensors; give a model saved by transformers' save_pretrained",
    )


@pytest.mark.parametrize(
    ("name", "problem", "hint"),
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
def test_other_weight_formats(saved, name, problem, hint):
    (saved / "model.safetensors").rename(saved / name)
    assert_refused(saved, f"has no model.safetensors, and {name} {problem}", hint)


def test_truncated_file(saved):
    file = saved / "model.safetensors"
    whole = file.read_bytes()
    for length in (0, 5, 8, 100, len(whole) - 1):
        file.write_bytes(whole[:length])
        assert_refused(
            saved, f"{file} is damaged or is no safetensors file (", "); download or copy it again"
        )


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
def test_wrong_header(saved, header, data, length):
    """The header alone is enough to refuse them; most sizes in them could not be allocated."""
    text = json.dumps(header).encode()
    file = saved / "model.safetensors"
    file.write_bytes(
        struct.pack("<Q", len(text) if length is None else length) + text + bytes(data)
    )
    assert_refused(saved, f"{file} is damaged or is no safetensors file (")


def test_unsupported_dtypes(saved):
    text = json.dumps(
        {
            "a": tensor([0, 2], dtype="F8_E4M3"),
            "b": tensor([2, 10], dtype="I32"),
            "c": tensor([10, 18]),
        }
    ).encode()
    (saved / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(18))
    assert_refused(
        saved, "model.safetensors holds a F8_E4M3, b I32; supported dtypes are BF16, F16, F32, F64"
    )


def test_unreadable_file(saved):
    (saved / "model.safetensors").unlink()
    (saved / "model.safetensors").mkdir()
    assert_refused(saved, f"cannot read {saved / 'model.safetensors'}: ")


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_dtypes_are_preserved(tmp_path, dtype):
    params = make_params(dtype=dtype)
    write_model(tmp_path / "m", family=BERT, config=CONFIG, params=params, tokenizer=None)
    assert_same_params(read_model(str(tmp_path / "m")).params, params)
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert config["dtype"] == config["torch_dtype"] == np.dtype(dtype).name


def shard(saved: Path, *, split: int = 20) -> dict:
    """Split a saved model into two files with an index; return the weight_map."""
    tensors = safetensors.numpy.load_file(saved / "model.safetensors")
    (saved / "model.safetensors").unlink()
    names = sorted(tensors)
    weight_map = {}
    for i, part in enumerate((names[:split], names[split:]), 1):
        file = f"model-0000{i}-of-00002.safetensors"
        safetensors.numpy.save_file({name: tensors[name] for name in part}, saved / file)
        weight_map |= dict.fromkeys(part, file)
    write_index(saved, weight_map)
    return weight_map


def write_index(saved: Path, weight_map) -> None:
    (saved / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_shards(saved, params):
    digest = read_model(str(saved)).digest
    shard(saved)
    model = read_model(str(saved))
    assert_same_params(model.params, params)
    assert model.digest == digest


OTHER_FOLDERS = (
    "../other.safetensors",
    "/etc/passwd",
    "/elsewhere/x.safetensors",
    "a/b.safetensors",
    "a\\b.safetensors",
)


@pytest.mark.parametrize(
    "name", [*OTHER_FOLDERS, "a\0.safetensors", ".safetensors", "x.bin", "..", 3, None]
)
def test_index_with_invalid_file_name(saved, name):
    weight_map = shard(saved)
    write_index(saved, weight_map | {min(weight_map): name})
    assert_refused(saved, f"names the file {name!r}; a shard must be a .safetensors file")


@pytest.mark.parametrize("weight_map", [None, [], {}, "x"])
def test_index_without_weight_map(saved, weight_map):
    shard(saved)
    write_index(saved, weight_map)
    assert_refused(saved, "model.safetensors.index.json has no weight_map from tensors to files")


def test_missing_shard(saved):
    shard(saved)
    (saved / "model-00002-of-00002.safetensors").unlink()
    assert_refused(
        saved,
        f"{saved} has no model-00002-of-00002.safetensors, which {INDEX} names",
    )


def test_tensor_in_two_shards(saved):
    weight_map = shard(saved)
    second = saved / "model-00002-of-00002.safetensors"
    name = min(weight_map)
    safetensors.numpy.save_file(
        safetensors.numpy.load_file(second) | {name: np.ones(60, np.float32)}, second
    )
    assert_refused(saved, f"{second} holds {name}, which another shard holds too")


def test_index_and_shards_disagree(saved):
    weight_map = shard(saved)
    name = sorted(weight_map)[3]
    write_index(
        saved, {n: f for n, f in weight_map.items() if n != name} | {"more": weight_map[name]}
    )
    assert_refused(
        saved, f"index.json and its shards disagree on {', '.join(sorted([name, 'more']))}"
    )

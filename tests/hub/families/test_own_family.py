"""A family of a user, in a folder of its own, with a fused and a sliced tensor."""

import sys

import jax
import numpy as np
import pytest
from helpers.checkpoints import assert_same_params
from helpers.tiny import tiny_config
from safetensors.numpy import load_file, save_file

from flaxdistill.errors import UserError
from flaxdistill.hub import families
from flaxdistill.hub.checkpoint import read_model, write_model
from flaxdistill.models.architecture import make_init
from flaxdistill.param_paths import flatten

FILE = """
import dataclasses

from flaxdistill.hub.families.base import Family
from flaxdistill.hub.families.bert import FAMILY as BERT
from flaxdistill.hub.families.tensors import Fused, Sliced


class Toy(Family):
    def tensors(self, config):
        tensors = []
        for tensor in super().tensors(config):
            (path,) = tensor.paths
            if path == "embeddings/position/embedding":
                tensors.append(Sliced(tensor.name, tensor.paths, offset=2))
            elif "/query/" in path:
                paths = tuple(path.replace("query", name) for name in ("query", "key", "value"))
                tensors.append(Fused(tensor.name.replace("query", "qkv"), paths))
            elif "/key/" not in path and "/value/" not in path:
                tensors.append(tensor)
        return tuple(tensors)


fields = {field.name: getattr(BERT, field.name) for field in dataclasses.fields(BERT)}
FAMILY = Toy(**(fields | {"model_type": "toy_family", "class_prefix": "Toy"}))
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    (tmp_path / "families").mkdir()
    (tmp_path / "families" / "toy_family.py").write_text(FILE)
    monkeypatch.setattr(families, "__path__", [*families.__path__, str(tmp_path / "families")])
    yield families.family("toy_family")
    sys.modules.pop("flaxdistill.hub.families.toy_family", None)


@pytest.fixture
def saved(toy, tmp_path):
    params = make_init(tiny_config())(jax.random.key(0))
    # Biases of 0 would not show which of them is which.
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(0)
    params = tree.unflatten([rng.normal(size=leaf.shape).astype(np.float32) for leaf in leaves])
    write_model(tmp_path / "saved", family=toy, config=tiny_config(), params=params, tokenizer=None)
    return tmp_path / "saved", params


def test_both_ways(toy, saved, tmp_path):
    folder, params = saved
    tensors = load_file(folder / "model.safetensors")
    prefix = "bert.encoder.layer.1.attention.self"
    fused = tensors[f"{prefix}.qkv.weight"]
    kernels = [params["layer_1"][name]["kernel"].T for name in ("query", "key", "value")]
    np.testing.assert_array_equal(fused, np.concatenate(kernels))
    assert tensors[f"{prefix}.qkv.bias"].shape == (48,) and f"{prefix}.key.bias" not in tensors
    positions = tensors["bert.embeddings.position_embeddings.weight"]
    assert positions.shape == (tiny_config().max_positions + 2, 16) and not positions[:2].any()
    model = read_model(str(folder))
    assert model.hub_family() == toy
    assert_same_params(model.params, params)
    write_model(
        tmp_path / "again", family=toy, config=model.config, params=model.params, tokenizer=None
    )
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert set(again) == set(tensors)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(again[name], tensor, err_msg=name)
    assert read_model(str(tmp_path / "again")).digest == model.digest
    decoded = flatten(jax.jit(lambda t: toy.decode(model.config, t))(tensors))
    for path, leaf in flatten(params).items():
        np.testing.assert_array_equal(decoded[path], leaf, err_msg=path)


def test_wrong_shapes(saved):
    folder, _ = saved
    tensors = load_file(folder / "model.safetensors")
    name = "bert.encoder.layer.0.attention.self.qkv.weight"
    tensors[name] = tensors[name][:-1]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UserError, match=rf"{name} has shape \[47, 16\] but .* \[48, 16\]"):
        read_model(str(folder))

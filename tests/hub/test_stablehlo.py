"""A model as a function and as StableHLO: equal to transformers, verified in a new process."""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy
from helpers.cli import refused, succeed
from helpers.models import HEADS, random_model

from flaxdistill.errors import UserError
from flaxdistill.experiment import run_models
from flaxdistill.hub import checkpoint, families, stablehlo, verify

IDS = np.array([[2, 9, 11, 6, 8, 3, 0, 0], [2, 7, 12, 13, 8, 9, 14, 3]], np.int32)
INPUTS = {
    "input_ids": IDS,
    "attention_mask": (IDS != 0).astype(np.int32),
    "token_type_ids": (IDS % 2).astype(np.int32),
}


def inputs_of(model) -> list[np.ndarray]:
    return [INPUTS[name] for name in model.input_names()]


@pytest.mark.hf
@pytest.mark.torch
@pytest.mark.parametrize("family", families.known())
@pytest.mark.parametrize("kind", HEADS)
def test_outputs_equal_transformers(tmp_path, kind, family):
    import torch
    import transformers

    model = random_model(tmp_path, family, **HEADS[kind])
    reference = (
        getattr(transformers, f"AutoModel{'For' if kind else ''}{kind}")
        .from_pretrained(model.directory)
        .eval()
    )
    named = dict(zip(model.input_names(), inputs_of(model), strict=True))
    with torch.no_grad():
        expected = reference(**{name: torch.tensor(value) for name, value in named.items()})
    outputs = stablehlo.make_forward(model)(
        model.family.write(model.config, model.params), *inputs_of(model)
    )
    assert set(outputs) == set(expected.keys())
    for name, value in outputs.items():
        real = INPUTS["attention_mask"].astype(bool) if value.shape[:2] == IDS.shape else np.s_[:]
        actual, target = np.asarray(value)[real], expected[name].numpy()[real]
        assert np.abs(actual - target).max() < 1e-5 * np.abs(target).max(), name


@pytest.mark.parametrize(
    ("family", "head"), [("bert", "MaskedLM"), ("distilbert", "SequenceClassification")]
)
def test_stablehlo_without_this_package(tmp_path, family, head):
    """The two files alone are enough, for any number of rows and any supported length."""
    model = random_model(tmp_path, family, **HEADS[head])
    exported = jax.export.deserialize(bytearray(stablehlo.to_stablehlo(model)))
    assert set(exported.platforms) == {"cpu", "cuda", "tpu"}
    weights = safetensors.numpy.load_file(model.directory / "model.safetensors")
    forward = stablehlo.make_forward(model)
    for rows, length in ((2, 8), (1, 3), (5, 16)):
        arrays = [np.resize(value, (rows, length)) for value in inputs_of(model)]
        arrays[1][:] = 1
        for name, value in forward(weights, *arrays).items():
            actual = exported.call(weights, *arrays)[name]
            assert np.abs(actual - value).max() < 1e-5 * np.abs(value).max(), name
    with pytest.raises(ValueError, match="shape"):
        exported.call(weights, *(np.resize(value, (1, 17)) for value in inputs_of(model)))


@pytest.fixture(scope="module")
def whole(finished, tmp_path_factory):
    """An export with StableHLO, verified in a new process."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    assert "outputs equal to 1e-05 in a new process" in succeed(
        "export", finished, folder, "--stablehlo"
    )
    return folder


@pytest.fixture
def exported(whole, tmp_path):
    """A copy of it, for a test to damage."""
    return shutil.copytree(whole, tmp_path / "out")


def other_weights(folder):
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    tensors["cls.predictions.bias"] = tensors["cls.predictions.bias"] + np.float32(1e-3)
    safetensors.numpy.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def other_config(folder):
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(fields | {"hidden_act": "relu"}))


def other_tokenizer(folder):
    """Change the casing in both files, of which tokenizer_config.json decides."""
    for name, key in (("tokenizer.json", "lowercase"), ("tokenizer_config.json", "do_lower_case")):
        text = (folder / name).read_text()
        (folder / name).write_text(text.replace(f'"{key}": true', f'"{key}": false'))


def no_tokenizer(folder):
    (folder / "tokenizer.json").unlink()


def other_function(folder):
    model = checkpoint.read_model(str(folder))
    other = dataclasses.replace(model, config=dataclasses.replace(model.config, num_heads=1))
    (folder / stablehlo.STABLEHLO).write_bytes(stablehlo.to_stablehlo(other))


def no_function(folder):
    (folder / stablehlo.STABLEHLO).write_bytes(b"no StableHLO")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (other_weights, ": model: logits of all texts by"),
        (other_config, ": model: logits of all texts by"),
        (other_tokenizer, ": model: logits of all texts by"),
        (no_tokenizer, "cannot be read by a new process (flaxdistill.errors.UserError: "),
        (other_function, ": StableHLO: logits of all texts by"),
        (no_function, "cannot be read by a new process ("),
    ],
)
def test_new_process_detects_damage(finished, exported, damage, message):
    damage(exported)
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        verify.compare_in_new_process(run_models.read_model(str(finished)), exported, exported)
    assert "\n" not in str(caught.value) and str(exported) in str(caught.value)


def test_mismatch_leaves_nothing(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(
        importlib.import_module("flaxdistill.api.export"),
        "to_stablehlo",
        lambda student: b"no StableHLO",
    )
    out = refused("export", finished, tmp_path / "out", "--stablehlo")
    assert "out cannot be read by a new process" in out and out.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
    write = safetensors.numpy.save_file

    def damaged(tensors, *args, **kwargs):
        write({name: value + np.float32(1e-6) for name, value in tensors.items()}, *args, **kwargs)

    monkeypatch.setattr(safetensors.numpy, "save_file", damaged)
    assert "does not read back as it was written" in refused("export", finished, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_code_of_the_model_card(whole, monkeypatch):
    """The code for StableHLO runs as it is printed."""
    blocks = re.findall(r"```python\n(.*?)```", (whole / "README.md").read_text(), re.DOTALL)
    (lines,) = (block for block in blocks if "jax" in block)
    monkeypatch.chdir(whole)
    names: dict = dict(INPUTS)
    exec(lines, names)
    assert names["outputs"]["logits"].shape[:2] == IDS.shape

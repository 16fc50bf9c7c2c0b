"""A model as one function, and as StableHLO: what `transformers` says, in any process, or the export is refused."""

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
from helpers.models import HEADS, made

from flaxdistill.errors import UserError
from flaxdistill.experiment import workdir
from flaxdistill.hub import checkpoint, families, stablehlo, verify

IDS = np.array([[2, 9, 11, 6, 8, 3, 0, 0], [2, 7, 12, 13, 8, 9, 14, 3]], np.int32)
GIVEN = {
    "input_ids": IDS,
    "attention_mask": (IDS != 0).astype(np.int32),
    "token_type_ids": (IDS % 2).astype(np.int32),
}


def given(model) -> list[np.ndarray]:
    return [GIVEN[name] for name in stablehlo.inputs(model.family)]


@pytest.mark.hf
@pytest.mark.torch
@pytest.mark.parametrize("family", families.known())
@pytest.mark.parametrize("kind", HEADS)
def test_it_says_what_transformers_says(tmp_path, kind, family):
    import torch
    import transformers

    model = made(tmp_path, family, **HEADS[kind])
    theirs = (
        getattr(transformers, f"AutoModel{'For' if kind else ''}{kind}")
        .from_pretrained(model.directory)
        .eval()
    )
    named = dict(zip(stablehlo.inputs(model.family), given(model), strict=True))
    with torch.no_grad():
        expected = theirs(**{name: torch.tensor(value) for name, value in named.items()})
    said = stablehlo.make_call(model.family, model.config)(
        model.family.write(model.config, model.params), *given(model)
    )
    assert set(said) == set(expected.keys())
    for name, value in said.items():
        real = GIVEN["attention_mask"].astype(bool) if value.shape[:2] == IDS.shape else np.s_[:]
        ours, reference = np.asarray(value)[real], expected[name].numpy()[real]
        assert np.abs(ours - reference).max() < 1e-5 * np.abs(reference).max(), name


@pytest.mark.parametrize(
    ("family", "head"), [("bert", "MaskedLM"), ("distilbert", "SequenceClassification")]
)
def test_stablehlo_without_this_package(tmp_path, family, head):
    """Any number of rows, any length that the model reads, from the two files alone."""
    model = made(tmp_path, family, **HEADS[head])
    exported = jax.export.deserialize(bytearray(stablehlo.stablehlo(model)))
    assert set(exported.platforms) == {"cpu", "cuda", "tpu"}
    weights = safetensors.numpy.load_file(model.directory / "model.safetensors")
    call = stablehlo.make_call(model.family, model.config)
    for rows, length in ((2, 8), (1, 3), (5, 16)):
        asked = [np.resize(value, (rows, length)) for value in given(model)]
        asked[1][:] = 1
        for name, value in call(weights, *asked).items():
            said = exported.call(weights, *asked)[name]
            assert np.abs(said - value).max() < 1e-5 * np.abs(value).max(), name
    with pytest.raises(ValueError, match="shape"):
        exported.call(weights, *(np.resize(value, (1, 17)) for value in given(model)))


@pytest.fixture(scope="module")
def whole(finished, tmp_path_factory):
    """An export with its StableHLO, and what another process said to it."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    assert "the same to 1e-05 in a process of its own" in succeed(
        "export", finished, folder, "--stablehlo"
    )
    return folder


@pytest.fixture
def exported(whole, tmp_path):
    """A copy of it to be broken."""
    return shutil.copytree(whole, tmp_path / "out")


def other_weights(folder):
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    tensors["cls.predictions.bias"] = tensors["cls.predictions.bias"] + np.float32(1e-3)
    safetensors.numpy.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def other_config(folder):
    given = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(given | {"hidden_act": "relu"}))


def other_tokenizer(folder):
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text.replace('"lowercase": true', '"lowercase": false'))


def no_tokenizer(folder):
    (folder / "tokenizer.json").unlink()


def other_function(folder):
    model = checkpoint.read_model(str(folder))
    other = dataclasses.replace(model, config=dataclasses.replace(model.config, num_heads=1))
    (folder / stablehlo.STABLEHLO).write_bytes(stablehlo.stablehlo(other))


def no_function(folder):
    (folder / stablehlo.STABLEHLO).write_bytes(b"no StableHLO")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("breaks", "told"),
    [
        (other_weights, "gives model: logits of texts that differ by"),
        (other_config, "gives model: logits of texts that differ by"),
        (other_tokenizer, "gives model: logits of texts that differ by"),
        (no_tokenizer, "cannot be read by a process of its own (flaxdistill.errors.UserError: "),
        (other_function, "gives StableHLO: logits of texts that differ by"),
        (no_function, "cannot be read by a process of its own ("),
    ],
)
def test_another_process_sees(finished, exported, breaks, told):
    breaks(exported)
    with pytest.raises(UserError, match=re.escape(told)) as caught:
        verify.compare(workdir.read_model(str(finished)), exported, exported)
    assert "\n" not in str(caught.value) and str(exported) in str(caught.value)


def test_a_mismatch_leaves_nothing(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(
        importlib.import_module("flaxdistill.api.export"),
        "stablehlo",
        lambda model: b"no StableHLO",
    )
    out = refused("export", finished, tmp_path / "out", "--stablehlo")
    assert "out cannot be read by a process of its own" in out and out.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
    write = safetensors.numpy.save_file

    def damaged(tensors, *told, **more):
        write({name: value + np.float32(1e-6) for name, value in tensors.items()}, *told, **more)

    monkeypatch.setattr(safetensors.numpy, "save_file", damaged)
    assert "does not read back as it was written" in refused("export", finished, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_card_tells_how(whole, monkeypatch):
    """By its lines as they stand."""
    blocks = re.findall(r"```python\n(.*?)```", (whole / "README.md").read_text(), re.DOTALL)
    (lines,) = (block for block in blocks if "jax" in block)
    monkeypatch.chdir(whole)
    names: dict = dict(GIVEN)
    exec(lines, names)
    assert names["said"]["logits"].shape[:2] == IDS.shape

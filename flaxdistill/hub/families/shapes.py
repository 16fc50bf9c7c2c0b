"""Shapes and number of the parameters of an encoder."""

from __future__ import annotations

import math

from flaxdistill.models.config import EncoderConfig


def expected_shapes(config: EncoderConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter of ``config`` by path, without initializing any."""
    D, F = config.hidden_size, config.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {}

    def dense(path: str, inputs: int, outputs: int) -> None:
        shapes[path + "/kernel"], shapes[path + "/bias"] = (inputs, outputs), (outputs,)

    def norm(path: str) -> None:
        shapes[path + "/scale"] = shapes[path + "/bias"] = (D,)

    tables = {
        "word": config.vocab_size,
        "position": config.max_positions,
        "token_type": config.type_vocab_size,
    }
    for table, rows in tables.items():
        if rows:
            shapes[f"embeddings/{table}/embedding"] = (rows, D)
    norm("embeddings/norm")
    for i in range(config.num_layers):
        for name in ("query", "key", "value", "attention"):
            dense(f"layer_{i}/{name}", D, D)
        dense(f"layer_{i}/inner", D, F)
        dense(f"layer_{i}/outer", F, D)
        norm(f"layer_{i}/attention_norm")
        norm(f"layer_{i}/norm")
    if config.pooler:
        dense("pooler", D, D)
    if config.head in ("sequence", "tokens", "span"):
        dense("classifier", D, len(config.labels) or 2)
    if config.head == "mlm":
        dense("mlm/transform", D, D)
        norm("mlm/norm")
        shapes["mlm/bias"] = (config.vocab_size,)
        if not config.tied_head:
            shapes["mlm/decoder/embedding"] = (config.vocab_size, D)
    return shapes


def count_parameters(config: EncoderConfig) -> int:
    """Return the number of parameters of an encoder and its head."""
    return sum(map(math.prod, expected_shapes(config).values()))

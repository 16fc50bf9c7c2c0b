"""The head of a model, as config.json describes it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from flaxdistill.hub.families.base import Family
from flaxdistill.hub.families.config_values import check_choice
from flaxdistill.models.config import EncoderConfig


def read_head(fields: Mapping[str, Any], config: EncoderConfig, family: Family) -> EncoderConfig:
    """Add to ``config`` the head that config.json names, if it names one, and its class labels."""
    heads = {name: head for head, name in family.architectures.items()}
    names = fields.get("architectures")
    architecture = str(names[0]) if isinstance(names, list) and names else ""
    head = heads.get(architecture, config.head)
    id2label = fields.get("id2label")
    by_id = {str(i): name for i, name in id2label.items()} if isinstance(id2label, Mapping) else {}
    labels = tuple(str(by_id.get(str(i), f"LABEL_{i}")) for i in range(len(by_id)))
    check_choice(fields, "problem_type", None, "single_label_classification", "regression")
    if head not in ("sequence", "tokens"):
        labels = ()
    elif not labels:
        # What transformers assumes: two classes.
        labels = ("LABEL_0", "LABEL_1")
    return dataclasses.replace(config, head=head, labels=labels)


def write_head(config: EncoderConfig, family: Family) -> dict[str, Any]:
    """Return the fields of config.json that describe the head."""
    fields: dict[str, Any] = {"architectures": [family.architectures[config.head]]}
    if config.labels:
        fields["id2label"] = {str(i): label for i, label in enumerate(config.labels)}
        fields["label2id"] = {label: i for i, label in enumerate(config.labels)}
    if config.head == "sequence":
        kind = "regression" if len(config.labels) == 1 else "single_label_classification"
        fields["problem_type"] = kind
    return fields

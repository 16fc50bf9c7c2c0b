"""The head of a model, as config.json describes it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from flaxdistill.errors import UserError
from flaxdistill.hub.families.base import Family
from flaxdistill.hub.families.config_values import check_choice
from flaxdistill.models.architecture import Architecture
from flaxdistill.models.head import Head
from flaxdistill.tasks.mlm import MaskedLMHead


def read_head(fields: Mapping[str, Any], config: Architecture, family: Family) -> Any:
    """Add to ``config`` the head that config.json names, a masked-LM's if it names none."""
    names = fields.get("architectures")
    class_name = str(names[0]) if isinstance(names, list) and names else ""
    heads: dict[str, type[Head]] = {family.class_name(head): head for head in family.heads}
    if class_name not in heads and "For" in class_name and class_name not in family.pretraining:
        raise UserError(
            f"architectures names {class_name}, and its head is not supported; supported are "
            f"{', '.join(heads)}"
        )
    head = heads.get(class_name, MaskedLMHead)
    id2label = fields.get("id2label")
    by_id = {str(i): name for i, name in id2label.items()} if isinstance(id2label, Mapping) else {}
    labels = tuple(str(by_id.get(str(i), f"LABEL_{i}")) for i in range(len(by_id)))
    check_choice(fields, "problem_type", None, "single_label_classification", "regression")
    if not head.has_labels:
        labels = ()
    elif not labels:
        # What transformers assumes: two classes.
        labels = ("LABEL_0", "LABEL_1")
    return dataclasses.replace(config, head=head(labels=labels))


def write_head(config: Architecture, family: Family) -> dict[str, Any]:
    """Return the fields of config.json that describe the head."""
    fields: dict[str, Any] = {"architectures": [family.class_name(config.head)]}
    if config.labels:
        fields["id2label"] = {str(i): label for i, label in enumerate(config.labels)}
        fields["label2id"] = {label: i for i, label in enumerate(config.labels)}
    return fields | config.head.transformers_fields()

"""Entities from the BIO tags of words."""

from __future__ import annotations

from typing import Any

import numpy as np

Word = dict[str, Any]


def join_entities(words: list[Word], text: str) -> list[Word]:
    """Join words with BIO tags to entities; the score of an entity is the mean over its words.

    An entity starts at every B tag, and at an I tag that does not follow a tag of the same type.
    """
    entities: list[list[Word]] = []
    previous = "O"
    for word in words:
        tag = word["label"]
        if tag != "O" and tag[:2] == "I-" and previous[2:] == tag[2:]:
            entities[-1].append(word)
        elif tag != "O":
            entities.append([word])
        previous = tag
    return [
        {
            "label": entity[0]["label"][2:],
            "text": text[entity[0]["start"] : entity[-1]["end"]],
            "start": entity[0]["start"],
            "end": entity[-1]["end"],
            "score": float(np.mean([word["score"] for word in entity])),
        }
        for entity in entities
    ]

"""Entities and the tags of their words: BIO (IOB2), and the schemes that are converted to it."""

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


def to_bio(tags: list[str]) -> list[str]:
    """Convert the tags of a sentence from IOB1, IOBES or BILOU to BIO; BIO tags stay.

    In IOB1 an entity begins with I, or with B next to another entity of its type. IOBES and BILOU
    mark the end of an entity (E, L) and one of a single word (S, U).

    Example:
      >>> to_bio(["I-PER", "I-PER", "O", "S-LOC", "B-ORG", "E-ORG"])
      ['B-PER', 'I-PER', 'O', 'B-LOC', 'B-ORG', 'I-ORG']
    """
    converted: list[str] = []
    for tag in tags:
        prefix, entity = tag[:2], tag[2:]
        continues = bool(converted) and converted[-1][2:] == entity
        if prefix in ("S-", "U-"):
            tag = f"B-{entity}"
        elif prefix in ("I-", "E-", "L-"):
            tag = f"{'I' if continues else 'B'}-{entity}"
        converted.append(tag)
    return converted

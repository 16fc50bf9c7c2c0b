"""The question, text and answers of an example, as SQuAD's files and ``datasets`` hold them."""

from __future__ import annotations

from typing import Any

from flaxdistill.data.readers.records import check_text
from flaxdistill.data.sources import Example
from flaxdistill.errors import UserError


def scoring_record(example: Example) -> dict[str, Any]:
    """Return what a held-out example is scored with: its text and its answers."""
    check_field(example, "text", example.pair)
    return {"text": example.pair, "answers": [text for text, _ in read_answers(example) or []]}


def check_field(example: Example, kind: str, value: Any) -> None:
    """Raise UserError unless a value is a question or a text."""
    if not (isinstance(value, str) and value.strip()):
        side = "column" if kind == "question" else "pair"
        raise UserError(
            f"{example.place}: expected a {kind} but found {value!r:.60}; name its column in "
            f"source.{side}, or give predict --{side}"
        )
    check_text(value, example.place)


def _answer_start(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError
    return value


def read_answers(example: Example) -> list[tuple[str, int]] | None:
    """Return the texts and starts of an example's answers; [] for no answer, None if unknown."""
    answers = example.label
    if answers is None:
        return None
    try:
        if isinstance(answers, dict):  # the layout of `datasets`
            return [
                (str(text), _answer_start(start))
                for text, start in zip(answers["text"], answers["answer_start"], strict=True)
            ]
        if isinstance(answers, list):
            return [
                (str(answer["text"]), _answer_start(answer["answer_start"])) for answer in answers
            ]
        raise TypeError
    except (TypeError, KeyError, ValueError):
        raise UserError(
            f"{example.place}: expected answers but found {answers!r:.60}; write a list of text "
            "and answer_start, and set source.label to its column"
        ) from None

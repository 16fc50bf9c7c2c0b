"""Where a student and its teacher answer differently, with the texts."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

import numpy as np

from flaxdistill import feed, judging, sharding
from flaxdistill.data.sources import Example
from flaxdistill.data.store import Blocks, Store
from flaxdistill.data.tokenizer import Vocabulary
from flaxdistill.experiment import Experiment, Teacher
from flaxdistill.hub import Model
from flaxdistill.prediction import make_predict
from flaxdistill.report.facts import Disagreement
from flaxdistill.tasks.span import Answering
from flaxdistill.tasks.tokens import NOT_ASKED
from flaxdistill.train import answers

LOOKED_AT = 1000
LISTED = 20
AROUND = 24
"""Tokens of a text that are shown before and behind a masked word."""

Case = tuple[Disagreement, float]
"""A held-out example with what both say of it, and how far apart that is."""


def disagreements(
    e: Experiment, store: Store, student: Model, teacher: Model
) -> tuple[int, int, list[Disagreement]]:
    """Ask both about at most ``LOOKED_AT`` held-out examples: how many, on how many they differ, and the clearest of these.

    Rows are asked as they are stored, and only shown as text. Classes, entities, answers and masked words differ or not,
    and those are listed of which both are most certain; numbers differ by what is written of them, and those furthest
    apart are listed.
    """
    text = e.task.head == "mlm"
    cases = list(_masked(store, student, teacher) if text else _answered(e, store, student, teacher))
    found = [(one, far) for one, far in cases if one.student != one.teacher]
    found.sort(key=lambda case: -case[1])
    return len(cases), len(found), [one for one, _ in found[:LISTED]]


def _answered(e: Experiment, store: Store, student: Model, teacher: Model) -> Iterator[Case]:
    """Compare answers to labelled rows, a sentence of several rows in its parts, windows of a text together."""
    rows, kept = _some(store.held_out), store.examples()
    mesh = sharding.make_mesh()
    models = (student, teacher)
    applies, params = judging.freeze(
        models, [Teacher(path=model.source, dtype="float32") for model in models], mesh
    )
    everywhere = sharding.replicated(mesh)
    predict = [sharding.jit(answers.make_predict(a), mesh, out_shardings=everywhere) for a in applies]
    said, labels = answers.collect(predict, params, feed.bucketed(rows, e.eval_batch_size, mesh))
    vocabulary = store.vocabulary()
    if isinstance(e.task, Answering):
        found = [e.task.answers(logits, rows, kept) for logits in said]
        for n in _firsts(rows.beside["example"]):
            example, second = (int(rows.beside[name][n]) for name in ("example", "second"))
            question = vocabulary.decode(rows.ids[n][1 : second - 1].tolist())
            truth = (kept[example]["answers"] or ["no answer"])[0]
            ours, theirs = (answer[example] or "no answer" for answer in found)
            yield _case(question, kept[example]["text"], truth, ours, theirs, 0.0)
        return
    for n, label in enumerate(labels):
        ids = rows.ids[n][: int(np.count_nonzero(rows.segments[n]))].tolist()
        second = int(rows.beside["second"][n])
        our, their = (logits[n] for logits in said)
        if e.task.head == "tokens":
            asked = label[: len(ids)]
            begins = [*np.flatnonzero(asked != NOT_ASKED).tolist(), len(ids) - 1]
            words = [vocabulary.decode(ids[a:b]) for a, b in itertools.pairwise(begins)]
            right = label[label != NOT_ASKED]
            ours, theirs, truth = (
                _entities(words, [store.labels[tag] if tag >= 0 else "" for tag in tags])
                for tags in (our.argmax(-1)[label != NOT_ASKED], their.argmax(-1)[label != NOT_ASKED], right)
            )
            known = truth if (right >= 0).all() else ""
            yield _case(" ".join(words), None, known, ours, theirs, _surely(our, their, label != NOT_ASKED))
            continue
        text = vocabulary.decode(ids[1 : second - 1 if second else -1])
        pair = vocabulary.decode(ids[second:-1]) if second else None
        if label.dtype.kind == "f":
            numbers = [float(value) for value in (label[0], our[0, 0], their[0, 0])]
            truth, ours, theirs = ("" if np.isnan(value) else f"{value:.2f}" for value in numbers)
            yield _case(text, pair, truth, ours, theirs, abs(numbers[1] - numbers[2]))
        else:
            ours, theirs = (store.labels[logits[0].argmax()] for logits in (our, their))
            truth = store.labels[label[0]] if label[0] >= 0 else ""
            yield _case(text, pair, truth, ours, theirs, _surely(our, their, np.ones(1, bool)))


def _case(text: str, pair: str | None, truth: str, student: str, teacher: str, far: float) -> Case:
    return Disagreement(text=text, pair=pair, truth=truth, teacher=teacher, student=student), far


def _some(rows: Blocks) -> Blocks:
    """Take evenly spread examples, each with all of its rows."""
    whose = rows.beside["example"]
    known = np.unique(whose)
    chosen = known[np.linspace(0, len(known) - 1, min(len(known), LOOKED_AT)).astype(int)]
    at = np.flatnonzero(np.isin(whose, chosen))
    beside = {name: array[at] for name, array in rows.beside.items()}
    return Blocks(rows.ids[at], rows.segments[at], 0, beside)


def _firsts(whose: np.ndarray) -> list[int]:
    """Give the first row of every example."""
    return np.sort(np.unique(whose, return_index=True)[1]).tolist()


def _surely(ours: np.ndarray, theirs: np.ndarray, asked: np.ndarray) -> float:
    """Give how likely the less certain of both finds its own answer where they differ most clearly; logits [N, C]."""
    differ = asked & (ours.argmax(-1) != theirs.argmax(-1))
    if not differ.any():
        return 0.0
    sure = [np.exp(x.max(-1) - np.logaddexp.reduce(x, -1)) for x in (ours[differ], theirs[differ])]
    return float(np.minimum(*sure).max())


def _entities(words: list[str], tags: list[str]) -> str:
    """Write what tags say of words: entities where they are BIO, else each word with its tag."""
    found: list[tuple[str, str]] = []
    for word, tag, before in zip(words, tags, ["O", *tags], strict=False):
        if tag[:2] == "I-" and found and before[2:] == tag[2:]:
            found[-1] = f"{found[-1][0]} {word}", tag[2:]
        elif tag not in ("O", ""):
            found.append((word, tag[2:] if tag[:2] in ("B-", "I-") else tag))
    return ", ".join(f"{text} ({kind})" for text, kind in found) or "nothing"


def _masked(store: Store, student: Model, teacher: Model) -> Iterator[Case]:
    """Hide a whole word in the middle of each block's first text, and compare the likeliest words for it."""
    vocabulary, rows = store.vocabulary(), store.held_out
    chosen = np.linspace(0, len(rows) - 1, min(len(rows), LOOKED_AT)).astype(int)
    texts = [
        found for n in chosen if (found := _hidden(rows.ids[n][rows.segments[n] == 1].tolist(), vocabulary))
    ]
    asked = [Example(f"held-out block {n}", text) for n, (text, _) in enumerate(texts)]
    ours, theirs = (
        [said["masks"][0][0] for _, said in make_predict(model, length=store.length, top=1)(asked)]
        for model in (student, teacher)
    )
    for (text, truth), our, their in zip(texts, ours, theirs, strict=True):
        yield _case(text, None, truth, our["word"], their["word"], min(our["score"], their["score"]))


def _hidden(ids: list[int], vocabulary: Vocabulary) -> tuple[str, str] | None:
    """Write a text with a mask for its middle word of two letters or more; None where it has no such word."""
    name = vocabulary.tokenizer.id_to_token
    whole = [
        n
        for n in range(1, len(ids) - 1)
        if re.fullmatch(r"\w{2,}", name(ids[n]) or "") and not (name(ids[n + 1]) or "").startswith("##")
    ]
    if not whole:
        return None
    at = whole[len(whole) // 2]
    before, behind = ids[max(1, at - AROUND) : at], ids[at + 1 : min(at + 1 + AROUND, len(ids) - 1)]
    mask = name(vocabulary.mask)
    return f"{vocabulary.decode(before)} {mask} {vocabulary.decode(behind)}", name(ids[at])

"""Where a student and its teacher answer differently, with the texts."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

import numpy as np

from flaxdistill.data.sources import Example
from flaxdistill.data.store import Blocks, Store
from flaxdistill.data.tokenizer import Vocabulary
from flaxdistill.experiment.config import Experiment
from flaxdistill.hub import frozen
from flaxdistill.hub.checkpoint import Model
from flaxdistill.inference.answers import joined
from flaxdistill.inference.predictor import make_predict
from flaxdistill.report.facts import Disagreement
from flaxdistill.runtime import sharding
from flaxdistill.tasks.metrics.question_answering import plain
from flaxdistill.tasks.question_answering import QuestionAnswering
from flaxdistill.tasks.token_classification import NOT_ASKED
from flaxdistill.train import batches
from flaxdistill.train import predict as answers

LOOKED_AT = 1000
LISTED = 20
SHOWN = 240
"""Characters of a text that an answer stands in."""

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
    cases = list(
        _masked(store, student, teacher) if text else _answered(e, store, student, teacher)
    )
    found = [(one, far) for one, far in cases if one.student != one.teacher]
    found.sort(key=lambda case: -case[1])
    return len(cases), len(found), [one for one, _ in found[:LISTED]]


def _answered(e: Experiment, store: Store, student: Model, teacher: Model) -> Iterator[Case]:
    """Compare answers to labelled rows, a sentence of several rows in its parts, windows of a text together."""
    rows = _some(store.held_out)
    mesh, models = sharding.make_mesh(), (student, teacher)
    frozen = [frozen.freeze(model, mesh, dtype="float32") for model in models]
    everywhere = sharding.replicated(mesh)
    predict = [
        sharding.jit(answers.make_predict(a), mesh, out_shardings=everywhere) for a, _ in frozen
    ]
    said, labels = answers.collect(
        predict, [params for _, params in frozen], batches.bucketed(rows, e.eval_batch_size, mesh)
    )
    if isinstance(e.task, QuestionAnswering):
        yield from _spans(e.task, store, rows, said)
        return
    vocabulary = store.vocabulary()
    for n, label in enumerate(labels):
        ids = rows.ids[n][: int(np.count_nonzero(rows.segments[n]))].tolist()
        logits = [side[n] for side in said]
        if e.task.head == "tokens":
            yield _tags(ids, label[: len(ids)], logits, store.labels, vocabulary)
            continue
        second = int(rows.beside["second"][n])
        text = vocabulary.decode(ids[1 : second - 1 if second else -1])
        pair = vocabulary.decode(ids[second:-1]) if second else None
        if label.dtype.kind == "f":
            truth, ours, theirs = (
                float(value) for value in (label[0], logits[0][0, 0], logits[1][0, 0])
            )
            words = [f"{value:.2f}" for value in (truth, ours, theirs)]
            closer = abs(ours - truth) < abs(theirs - truth)
            yield _case(text, pair, words, (closer, not closer), abs(ours - theirs))
        else:
            classes = [int(label[0]), *(int(side[0].argmax()) for side in logits)]
            right = (classes[1] == classes[0], classes[2] == classes[0])
            yield _case(
                text,
                pair,
                [store.labels[c] for c in classes],
                right,
                _surely(logits, np.ones(1, bool)),
            )


def _spans(
    task: QuestionAnswering, store: Store, rows: Blocks, said: list[answers.Rows]
) -> Iterator[Case]:
    """Compare answers by the words that SQuAD's scorer compares; those are clearest of which one is right."""
    kept, vocabulary = store.examples(), store.vocabulary()
    found = [task.answers(logits, rows, kept) for logits in said]
    for n in np.sort(
        np.unique(rows.beside["example"], return_index=True)[1]
    ):  # the first window of each
        example, second = (int(rows.beside[name][n]) for name in ("example", "second"))
        question = vocabulary.decode(rows.ids[n][1 : second - 1].tolist())
        references = kept[example]["answers"] or [""]
        given = [answer[example] for answer in found]
        right = [plain(answer) in map(plain, references) for answer in given]
        if plain(given[0]) == plain(given[1]):
            given[0] = given[1]
        words = [answer or "no answer" for answer in (references[0], *given)]
        text = _around(kept[example]["text"], references[0] or given[1])
        yield _case(question, text, words, (right[0], right[1]), float(right[0] != right[1]))


def _around(text: str, part: str) -> str:
    """Cut a long text to what stands around a part of it."""
    begin = max(text.find(part) - SHOWN // 2, 0)
    end = begin + SHOWN
    return f"{'…' if begin else ''}{text[begin:end]}{'…' if end < len(text) else ''}"


def _tags(
    ids: list[int],
    label: np.ndarray,
    logits: list[np.ndarray],
    labels: tuple[str, ...],
    vocabulary: Vocabulary,
) -> Case:
    """Compare the tags of a row's words."""
    asked = label != NOT_ASKED
    begins = [*np.flatnonzero(asked).tolist(), len(ids) - 1]
    words = [vocabulary.decode(ids[a:b]) for a, b in itertools.pairwise(begins)]
    ends = np.cumsum([len(word) + 1 for word in words])
    text = " ".join(words)
    bio = all(name == "O" or name[:2] in ("B-", "I-") for name in labels)

    def told(tags: np.ndarray) -> str:
        places = [
            {
                "label": labels[tag],
                "text": word,
                "start": end - len(word) - 1,
                "end": end - 1,
                "score": 1.0,
            }
            for tag, word, end in zip(tags, words, ends.tolist(), strict=True)
        ]
        parts = joined(places, text) if bio else places
        return ", ".join(f"{part['text']} ({part['label']})" for part in parts) or "nothing"

    ours, theirs = (side[: len(ids)].argmax(-1)[asked] for side in logits)
    truth = label[asked]
    right = (bool((ours == truth).all()), bool((theirs == truth).all()))
    whole = np.zeros(len(logits[0]), bool)
    whole[: len(asked)] = asked
    return _case(text, None, [told(truth), told(ours), told(theirs)], right, _surely(logits, whole))


def _case(
    text: str, pair: str | None, words: list[str], right: tuple[bool, bool], far: float
) -> Case:
    """Put a case together; ``words`` are the truth and what both say, the student first, as in ``right``."""
    truth, student, teacher = words
    return Disagreement(
        text=text,
        pair=pair,
        truth=truth,
        teacher=teacher,
        student=student,
        teacher_right=right[1],
        student_right=right[0],
    ), far


def _some(rows: Blocks) -> Blocks:
    """Take evenly spread examples, each with all of its rows."""
    whose = rows.beside["example"]
    known = np.unique(whose)
    chosen = known[np.linspace(0, len(known) - 1, min(len(known), LOOKED_AT)).astype(int)]
    at = np.flatnonzero(np.isin(whose, chosen))
    beside = {name: array[at] for name, array in rows.beside.items()}
    return Blocks(rows.ids[at], rows.segments[at], 0, beside)


def _surely(logits: list[np.ndarray], asked: np.ndarray) -> float:
    """Give how likely the less certain of both finds its own answer where they differ most clearly; logits [N, C]."""
    ours, theirs = logits
    differ = asked & (ours.argmax(-1) != theirs.argmax(-1))
    if not differ.any():
        return 0.0
    sure = [np.exp(x.max(-1) - np.logaddexp.reduce(x, -1)) for x in (ours[differ], theirs[differ])]
    return float(np.minimum(*sure).max())


def _masked(store: Store, student: Model, teacher: Model) -> Iterator[Case]:
    """Hide a whole word in the middle of each block's first text, and compare the likeliest words for it."""
    vocabulary, rows = store.vocabulary(), store.held_out
    chosen = np.linspace(0, len(rows) - 1, min(len(rows), LOOKED_AT)).astype(int)
    texts = [
        found
        for n in chosen
        if (found := _hidden(rows.ids[n][rows.segments[n] == 1].tolist(), vocabulary))
    ]
    asked = [Example(f"held-out block {n}", text) for n, (text, _) in enumerate(texts)]
    ours, theirs = (
        [said["masks"][0][0] for _, said in make_predict(model, length=store.length, top=1)(asked)]
        for model in (student, teacher)
    )
    for (text, truth), our, their in zip(texts, ours, theirs, strict=True):
        words = [truth, our["word"], their["word"]]
        right = (words[1] == truth, words[2] == truth)
        yield _case(text, None, words, right, min(our["score"], their["score"]))


def _hidden(ids: list[int], vocabulary: Vocabulary) -> tuple[str, str] | None:
    """Write a text with a mask for its middle word of two letters or more; None where it has no such word."""
    name = vocabulary.tokenizer.id_to_token
    whole = [
        n
        for n in range(1, len(ids) - 1)
        if re.fullmatch(r"\w{2,}", name(ids[n]) or "")
        and not (name(ids[n + 1]) or "").startswith("##")
    ]
    if not whole:
        return None
    at = whole[len(whole) // 2]
    before, behind = ids[max(1, at - AROUND) : at], ids[at + 1 : min(at + 1 + AROUND, len(ids) - 1)]
    mask = name(vocabulary.mask)
    return f"{vocabulary.decode(before)} {mask} {vocabulary.decode(behind)}", name(ids[at])

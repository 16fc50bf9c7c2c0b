"""Held-out examples that a student and its teacher answer differently, with their texts."""

from __future__ import annotations

import functools
import itertools
import typing
from collections.abc import Iterator

import numpy as np

from flaxdistill.data.sources import Example
from flaxdistill.data.store import Blocks, Store
from flaxdistill.data.tokenizer import Vocabulary
from flaxdistill.experiment.config import Experiment
from flaxdistill.hub import frozen
from flaxdistill.hub.checkpoint import Checkpoint
from flaxdistill.inference.predictor import make_predict
from flaxdistill.models.architecture import Compute
from flaxdistill.models.head import Head
from flaxdistill.report.facts import Disagreement
from flaxdistill.report.masked_words import mask_word
from flaxdistill.runtime import sharding
from flaxdistill.tasks.entities import join_entities
from flaxdistill.tasks.metrics.question_answering import normalize_answer
from flaxdistill.tasks.mlm import MaskedLMHead
from flaxdistill.tasks.question_answering import QuestionAnswering, SpanHead
from flaxdistill.tasks.text_classification import TextHead
from flaxdistill.tasks.token_classification import NO_PREDICTION, TokensHead
from flaxdistill.train import batches
from flaxdistill.train import predict as answers

MAX_COMPARED = 1000
MAX_LISTED = 20
CONTEXT_CHARACTERS = 240
"""Characters shown of a context that contains an answer."""

Comparison = tuple[Disagreement, float]
"""A held-out example with both answers, and how clearly they differ."""


def disagreements(
    e: Experiment, store: Store, student: Checkpoint, teacher: Checkpoint
) -> tuple[int, int, list[Disagreement]]:
    """Compare the answers of student and teacher on at most ``MAX_COMPARED`` held-out examples.

    Returns the number of examples, the number that differ, and the ``MAX_LISTED`` clearest of
    these. Classes, tags, spans and masked words are clearest if both models are confident, numbers
    if they are far apart; numbers differ if they do at two decimals. Models read the stored token
    ids; texts are decoded only for display.
    """
    comparisons = list(_compare(student.config.head, e, store, student, teacher))
    differing = [(case, gap) for case, gap in comparisons if case.student != case.teacher]
    differing.sort(key=lambda comparison: -comparison[1])
    return len(comparisons), len(differing), [case for case, _ in differing[:MAX_LISTED]]


@functools.singledispatch
def _compare(
    head: Head, e: Experiment, store: Store, student: Checkpoint, teacher: Checkpoint
) -> Iterator[Comparison]:
    """Compare the answers of a head; nothing is known about those of a head of the user."""
    return iter(())


@_compare.register
def _compare_questions(
    head: SpanHead, e: Experiment, store: Store, student: Checkpoint, teacher: Checkpoint
) -> Iterator[Comparison]:
    rows = _sample(store.held_out)
    logits, _ = _predict_rows(e, rows, student, teacher)
    yield from _compare_spans(typing.cast(QuestionAnswering, e.task), store, rows, logits)


@_compare.register
def _compare_words(
    head: TokensHead, e: Experiment, store: Store, student: Checkpoint, teacher: Checkpoint
) -> Iterator[Comparison]:
    rows, vocabulary = _sample(store.held_out), store.vocabulary()
    logits, labels = _predict_rows(e, rows, student, teacher)
    for n, label in enumerate(labels):
        ids = rows.ids[n][: int(np.count_nonzero(rows.segments[n]))].tolist()
        tags = label[: len(ids)]
        yield _compare_tags(ids, tags, logits[0][n], logits[1][n], store.labels, vocabulary)


@_compare.register
def _compare_texts(
    head: TextHead, e: Experiment, store: Store, student: Checkpoint, teacher: Checkpoint
) -> Iterator[Comparison]:
    rows, vocabulary = _sample(store.held_out), store.vocabulary()
    logits, labels = _predict_rows(e, rows, student, teacher)
    for n, label in enumerate(labels):
        ids = rows.ids[n][: int(np.count_nonzero(rows.segments[n]))].tolist()
        student_logits, teacher_logits = (model_logits[n] for model_logits in logits)
        second = int(rows.columns["second"][n])
        text = vocabulary.decode(ids[1 : second - vocabulary.separators if second else -1])
        pair = vocabulary.decode(ids[second:-1]) if second else None
        if label.dtype.kind == "f":
            yield _compare_numbers(text, pair, label[0], student_logits[0, 0], teacher_logits[0, 0])
        else:
            truth = int(label[0])
            classes = [truth, int(student_logits[0].argmax()), int(teacher_logits[0].argmax())]
            yield _comparison(
                text,
                pair,
                [store.labels[c] for c in classes],
                (classes[1] == truth, classes[2] == truth),
                _confidence(student_logits, teacher_logits, np.ones(1, bool)),
            )


def _predict_rows(
    e: Experiment, rows: Blocks, student: Checkpoint, teacher: Checkpoint
) -> tuple[list[answers.RowArrays], answers.RowArrays]:
    """Return the logits of student and teacher, and the labels, by row."""
    mesh = sharding.make_mesh()
    models = [
        frozen.freeze(model, mesh, compute=Compute(dtype="float32")) for model in (student, teacher)
    ]
    replicated = sharding.replicated(mesh)
    predict = [
        sharding.jit(answers.make_predict_logits(apply), mesh, out_shardings=replicated)
        for apply, _ in models
    ]
    return answers.collect_logits(
        predict,
        [params for _, params in models],
        batches.batches_by_length(rows, e.eval_batch_size, mesh),
    )


def _compare_numbers(
    text: str, pair: str | None, truth: float, student: float, teacher: float
) -> Comparison:
    truth, student, teacher = float(truth), float(student), float(teacher)
    student_closer = abs(student - truth) < abs(teacher - truth)
    return _comparison(
        text,
        pair,
        [f"{value:.2f}" for value in (truth, student, teacher)],
        (student_closer, not student_closer),
        abs(student - teacher),
    )


def _compare_spans(
    task: QuestionAnswering, store: Store, rows: Blocks, logits: list[answers.RowArrays]
) -> Iterator[Comparison]:
    """Compare normalized answers as SQuAD's scorer does; clearest if one of two is right."""
    examples, vocabulary = store.examples(), store.vocabulary()
    student_spans, teacher_spans = (
        task.answers(model_logits, rows, examples) for model_logits in logits
    )
    first_windows = np.sort(np.unique(rows.columns["example"], return_index=True)[1])
    for n in first_windows:
        example, second = (int(rows.columns[name][n]) for name in ("example", "second"))
        question = vocabulary.decode(rows.ids[n][1 : second - vocabulary.separators].tolist())
        references = examples[example]["answers"] or [""]
        student, teacher = student_spans[example], teacher_spans[example]
        correct = [normalize_answer(reference) for reference in references]
        student_right, teacher_right = (
            normalize_answer(answer) in correct for answer in (student, teacher)
        )
        if normalize_answer(student) == normalize_answer(teacher):
            student = teacher
        yield _comparison(
            question,
            _excerpt(examples[example]["text"], references[0] or teacher),
            [answer or "no answer" for answer in (references[0], student, teacher)],
            (student_right, teacher_right),
            float(student_right != teacher_right),
        )


def _excerpt(text: str, part: str) -> str:
    """Return the text around ``part``, with ellipses where it is cut."""
    begin = max(text.find(part) - CONTEXT_CHARACTERS // 2, 0)
    end = begin + CONTEXT_CHARACTERS
    return f"{'…' if begin else ''}{text[begin:end]}{'…' if end < len(text) else ''}"


def _compare_tags(
    ids: list[int],
    label: np.ndarray,
    student_logits: np.ndarray,
    teacher_logits: np.ndarray,
    labels: tuple[str, ...],
    vocabulary: Vocabulary,
) -> Comparison:
    """Compare the tags of a row's words."""
    tagged = label != NO_PREDICTION
    begins = [*np.flatnonzero(tagged).tolist(), len(ids) - 1]
    words = [vocabulary.decode(ids[a:b]) for a, b in itertools.pairwise(begins)]
    student, teacher = (
        logits[: len(ids)].argmax(-1)[tagged] for logits in (student_logits, teacher_logits)
    )
    truth = label[tagged]
    mask = np.zeros(len(student_logits), bool)
    mask[: len(tagged)] = tagged
    return _comparison(
        " ".join(words),
        None,
        [_entities(tags, words, labels) for tags in (truth, student, teacher)],
        (bool((student == truth).all()), bool((teacher == truth).all())),
        _confidence(student_logits, teacher_logits, mask),
    )


def _entities(tags: np.ndarray, words: list[str], labels: tuple[str, ...]) -> str:
    """Format the entities of BIO tags, or all tags of another scheme, such as ``Paris (LOC)``."""
    ends = np.cumsum([len(word) + 1 for word in words]).tolist()
    tokens = [
        {
            "label": labels[tag],
            "text": word,
            "start": end - len(word) - 1,
            "end": end - 1,
            "score": 1.0,
        }
        for tag, word, end in zip(tags, words, ends, strict=True)
    ]
    bio = all(name == "O" or name[:2] in ("B-", "I-") for name in labels)
    entities = join_entities(tokens, " ".join(words)) if bio else tokens
    return ", ".join(f"{entity['text']} ({entity['label']})" for entity in entities) or "nothing"


def _comparison(
    text: str, pair: str | None, answers: list[str], right: tuple[bool, bool], gap: float
) -> Comparison:
    """Build a comparison; ``answers``: truth, student, teacher; ``right``: student, teacher."""
    truth, student, teacher = answers
    return Disagreement(
        text=text,
        pair=pair,
        truth=truth,
        teacher=teacher,
        student=student,
        teacher_right=right[1],
        student_right=right[0],
    ), gap


def _sample(rows: Blocks) -> Blocks:
    """Return evenly spaced examples, each with all of its rows."""
    examples = rows.columns["example"]
    numbers = np.unique(examples)
    chosen = numbers[np.linspace(0, len(numbers) - 1, min(len(numbers), MAX_COMPARED)).astype(int)]
    at = np.flatnonzero(np.isin(examples, chosen))
    columns = {name: array[at] for name, array in rows.columns.items()}
    return Blocks(rows.ids[at], rows.segments[at], 0, columns)


def _confidence(student: np.ndarray, teacher: np.ndarray, mask: np.ndarray) -> float:
    """Return the largest, over differing answers, of the smaller probability of the two.

    Logits are [N, C]; ``mask`` [N] selects positions that have an answer. 0 if no answer differs.
    """
    differ = mask & (student.argmax(-1) != teacher.argmax(-1))
    if not differ.any():
        return 0.0
    probabilities = [
        np.exp(logits.max(-1) - np.logaddexp.reduce(logits, -1))
        for logits in (student[differ], teacher[differ])
    ]
    return float(np.minimum(*probabilities).max())


@_compare.register
def _compare_masked_words(
    head: MaskedLMHead, e: Experiment, store: Store, student: Checkpoint, teacher: Checkpoint
) -> Iterator[Comparison]:
    """Mask a word in the middle of each block's first text and compare the most likely words."""
    vocabulary, rows = store.vocabulary(), store.held_out
    chosen = np.linspace(0, len(rows) - 1, min(len(rows), MAX_COMPARED)).astype(int)
    masked = [
        masked_text
        for n in chosen
        if (masked_text := mask_word(rows.ids[n][rows.segments[n] == 1].tolist(), vocabulary))
    ]
    examples = [Example(f"held-out block {n}", text) for n, (text, _) in enumerate(masked)]
    student_words, teacher_words = (
        [
            answer["masks"][0][0]
            for _, answer in make_predict(model, length=store.length, top=1)(examples)
        ]
        for model in (student, teacher)
    )
    for (text, truth), student_word, teacher_word in zip(
        masked, student_words, teacher_words, strict=True
    ):
        yield _comparison(
            text,
            None,
            [truth, student_word["word"], teacher_word["word"]],
            (student_word["word"] == truth, teacher_word["word"] == truth),
            min(student_word["score"], teacher_word["score"]),
        )

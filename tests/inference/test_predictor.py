"""Predictions equal those of transformers for the same checkpoint, in the order of the texts."""

from __future__ import annotations

import io
import itertools
import json
import sys

import numpy as np
import pytest
from helpers.cli import LETTERS, refused, succeed
from helpers.models import TEXTS

from flaxdistill.data.sources import Example
from flaxdistill.hub import checkpoint
from flaxdistill.inference import predictor
from flaxdistill.inference.examples import make_examples
from flaxdistill.tasks.entities import join_entities
from flaxdistill.train import batches as train_batches


def predict(path, texts, pair=None, **options):
    answers = predictor.make_predict(checkpoint.read_model(str(path)), **options)
    return [answer for _, answer in answers(make_examples(texts, pair))]


def load_reference(path, kind: str):
    """Load a model with transformers; return its tokenizer, the model and a function to logits."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    model = getattr(transformers, f"AutoModelFor{kind}").from_pretrained(path).eval()

    def logits(*texts: str) -> dict[str, np.ndarray]:
        with torch.no_grad():
            rows = tokenizer(*texts, return_tensors="pt")
            return {name: value.numpy() for name, value in model(**rows).items()}

    return tokenizer, model, logits


def softmax(logits: np.ndarray) -> np.ndarray:
    from scipy import special

    return special.softmax(logits, -1)


@pytest.mark.hf
@pytest.mark.torch
@pytest.mark.parametrize("pair", [None, "the bee sees a cat"])
def test_classes_and_numbers(models, pair):
    for kind in ("sequence", "number"):
        _, model, logits = load_reference(models[kind], "SequenceClassification")
        for text, answer in zip(TEXTS, predict(models[kind], TEXTS, pair), strict=True):
            expected_logits = logits(text, *([pair] if pair else []))["logits"][0]
            if kind == "number":
                assert answer["score"] == pytest.approx(expected_logits[0], abs=1e-5)
                continue
            expected = {
                model.config.id2label[n]: probability
                for n, probability in enumerate(softmax(expected_logits))
            }
            assert answer["scores"] == pytest.approx(expected, abs=1e-5)
            assert (
                answer["label"] == next(iter(answer["scores"])) == max(expected, key=expected.get)
            )
            assert answer["score"] == max(answer["scores"].values())


@pytest.mark.hf
@pytest.mark.torch
def test_entities(models):
    import transformers

    pipeline = transformers.pipeline(
        "token-classification", str(models["tokens"]), aggregation_strategy="first", device="cpu"
    )
    count = 0
    for text, answer in zip(TEXTS, predict(models["tokens"], TEXTS), strict=True):
        expected = pipeline(text) if text else []
        count += len(expected)
        assert [(e["label"], e["start"], e["end"], e["text"]) for e in answer["entities"]] == [
            (e["entity_group"], e["start"], e["end"], text[e["start"] : e["end"]]) for e in expected
        ]
        for entity, other in zip(answer["entities"], expected, strict=True):
            assert entity["score"] == pytest.approx(other["score"], abs=1e-5)
    assert count > 3


@pytest.mark.hf
@pytest.mark.torch
def test_tags_of_words(models):
    tokenizer, model, logits = load_reference(models["plain"], "TokenClassification")
    for text, answer in zip(TEXTS, predict(models["plain"], TEXTS), strict=True):
        row = tokenizer(text)
        places = row.word_ids()
        probabilities = softmax(logits(text)["logits"][0])
        firsts = [n for n, word in enumerate(places) if word is not None and places[n - 1] != word]
        assert [word["label"] for word in answer["words"]] == [
            model.config.id2label[probabilities[n].argmax()] for n in firsts
        ]
        assert [word["score"] for word in answer["words"]] == pytest.approx(
            [probabilities[n].max() for n in firsts], abs=1e-5
        )
        assert all(text[word["start"] : word["end"]] == word["text"] for word in answer["words"])


@pytest.mark.hf
@pytest.mark.torch
def test_spans(models):
    context = "the cat sees a dog. a bee sees the cat! the dog"
    tokenizer, _, logits = load_reference(models["span"], "QuestionAnswering")
    for question, answer in zip(
        TEXTS[:3], predict(models["span"], TEXTS[:3], context), strict=True
    ):
        row = tokenizer(question, context, return_offsets_mapping=True)
        outputs = logits(question, context)
        start, end = outputs["start_logits"][0], outputs["end_logits"][0]
        second = [n for n, part in enumerate(row.sequence_ids()) if part == 1]
        pairs = [(i, j) for i, j in itertools.product(second, second) if i <= j < i + 30]
        pairs.sort(key=lambda pair: -start[pair[0]] - end[pair[1]])
        # With 14 tokens, all of them are among the 20 best starts and ends.
        nbest: dict[str, tuple[int, int, float]] = {}
        for i, j in pairs:
            a, b = row["offset_mapping"][i][0], row["offset_mapping"][j][1]
            nbest.setdefault(context[a:b], (a, b, start[i] + end[j]))
        texts, scores = list(nbest), np.array([score for _, _, score in nbest.values()])
        # Probabilities are among the 20 spans that the script compares.
        best = zip(texts[:5], softmax(scores[:20]), strict=False)
        for span, (text, probability) in zip(answer["answers"], best, strict=True):
            assert (span["answer"], span["start"], span["end"]) == (text, *nbest[text][:2])
            assert span["score"] == pytest.approx(probability, abs=1e-5)
        assert answer == answer["answers"][0] | {"answers": answer["answers"]}
        # With no answer, which the script appends if it is not among the n best.
        null_score = float(start[0] + end[0])
        rank = int((scores >= null_score).sum())
        answers, values = [*texts[:rank], "", *texts[rank:]], np.insert(scores, rank, null_score)
        best = [*range(20)] if rank < 20 else [*range(20), rank]
        (other,) = predict(models["span"], [question], context, unanswerable=True, top=20)
        assert [span["answer"] for span in other["answers"]] == [answers[k] for k in best][:20]
        expected = softmax(values[best])
        assert [span["score"] for span in other["answers"]] == pytest.approx(
            expected[:20], abs=1e-5
        )
        assert other["answer"] == ("" if rank == 0 else texts[0])
        assert other["score"] == pytest.approx(expected[0], abs=1e-5)
        for margin, expected_answer in ((-0.01, ""), (0.01, texts[0])):
            threshold = null_score - float(scores[0]) + margin
            options = {"unanswerable": True, "null_threshold": threshold}
            (other,) = predict(models["span"], [question], context, **options)
            assert other["answer"] == expected_answer
    # A text longer than a row is split into windows; offsets refer to the whole text.
    (long,) = predict(models["span"], ["the cat"], "a cat sees. " * 30, length=32)
    assert ("a cat sees. " * 30)[long["start"] : long["end"]] == long["answer"] != ""


@pytest.mark.hf
@pytest.mark.torch
def test_masks(models):
    tokenizer, _, logits = load_reference(models["mlm"], "MaskedLM")
    texts = ["the [MASK] sees a dog", "[MASK] [MASK]", "[MASK]cat!"]
    for text, answer in zip(texts, predict(models["mlm"], texts, top=3), strict=True):
        positions = np.array(tokenizer(text)["input_ids"]) == tokenizer.mask_token_id
        expected = softmax(logits(text)["logits"][0][positions])
        assert len(answer["masks"]) == len(expected)
        for words, probabilities in zip(answer["masks"], expected, strict=True):
            order = np.argsort(-probabilities)[:3]
            assert [word["word"] for word in words] == tokenizer.convert_ids_to_tokens(order)
            assert [word["score"] for word in words] == pytest.approx(
                probabilities[order], abs=1e-5
            )


def test_mask_far_into_a_text(models):
    """The model reads the tokens around the mask."""
    words = ["the", "cat", "sees", "a", "dog", "."] * 10
    words[31] = "[MASK]"
    (answer,) = predict(models["mlm"], [" ".join(words)], length=16)
    (near,) = predict(models["mlm"], [" ".join(words[31 - 7 : 31 + 7])])
    assert _rounded(answer) == _rounded(near)
    (start,) = predict(models["mlm"], [" ".join(words[29:])], length=16)
    (near,) = predict(models["mlm"], [" ".join(words[29 : 29 + 14])])
    assert _rounded(start) == _rounded(near)


@pytest.mark.slow
def test_answers_keep_the_order_of_the_texts(models, monkeypatch):
    monkeypatch.setattr(predictor, "WINDOW", 2)
    generator = np.random.default_rng(0)
    texts = [
        " ".join(generator.choice(list(LETTERS), generator.integers(0, 40))) for _ in range(70)
    ]
    for kind in ("sequence", "tokens"):
        alone = [predict(models[kind], [text])[0] for text in texts[:20]]
        together = predict(models[kind], texts, batch_size=8)
        assert len(together) == len(texts)
        for answer, other in zip(alone, together, strict=False):
            np.testing.assert_equal(_rounded(answer), _rounded(other))


def _rounded(value):
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    return round(value, 4) if isinstance(value, float) else value


def test_texts_are_read_lazily(models):
    """At most two windows are read before the first answer, so memory use is bounded."""
    counter = itertools.count()
    endless = (Example(f"text {n}", "a cat") for n in counter)
    answers = predictor.make_predict(checkpoint.read_model(str(models["sequence"])), batch_size=2)(
        endless
    )
    for _ in range(10):
        next(answers)
    assert next(counter) <= 2 + 2 * 2 * predictor.WINDOW + 1


def test_few_short_texts_make_a_small_batch(models, monkeypatch):
    shapes, batches = [], train_batches.batches_by_length

    def record(*arguments):
        for batch in batches(*arguments):
            shapes.append(batch.input_ids.shape)
            yield batch

    monkeypatch.setattr(train_batches, "batches_by_length", record)
    assert len(predict(models["sequence"], ["a cat"] * 3)) == 3 and shapes == [(8, 8)], (
        "one row per device, padded to the length of the texts"
    )


def test_command(models, tmp_path, capsys, monkeypatch):
    def lines(*arguments: object) -> list[dict]:
        return [json.loads(line) for line in succeed("predict", *arguments).splitlines()]

    answers = lines(models["sequence"], "the cat", "a dog", "--top", 2)
    assert [line["text"] for line in answers] == ["the cat", "a dog"]
    assert all(len(line["scores"]) == 2 for line in answers)
    file = tmp_path / "rows.tsv"
    file.write_text("one\ttwo\nthe cat\ta dog\n")
    (from_file,) = lines(models["sequence"], "--data", file, "--column", "one", "--pair", "two")
    (from_arguments,) = lines(models["sequence"], "the cat", "--pair", "a dog")
    assert from_file == from_arguments
    monkeypatch.setattr(
        sys, "stdin", io.TextIOWrapper(io.BytesIO("the cat\ta dog\r\n\nä cat".encode()))
    )
    first, empty, last = lines(models["sequence"])
    assert first == from_arguments
    assert (empty["text"], last["text"]) == ("", "ä cat")
    sentences = tmp_path / "sentences.txt"
    sentences.write_text("the\ncat-dog!\n\nbee\n")
    words, bee = lines(models["plain"], "--data", sentences, "--column", 0)
    assert (words["text"], bee["text"]) == (["the", "cat-dog!"], ["bee"])
    assert [(w["text"], w["start"], w["end"]) for w in words["words"]] == [
        ("the", 0, 3),
        ("cat-dog!", 4, 12),
    ]
    (span,) = lines(models["span"], "a cat", "--pair", "the dog sees a cat")
    assert span["pair"][span["start"] : span["end"]] == span["answer"]


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("mlm", ["no mask"], "text 1: there is no [MASK] in 'no mask'"),
        (
            "span",
            ["a question"],
            "text 1: expected a text but found None; name its column in source.pair, or give "
            "predict --pair",
        ),
        ("sequence", ["a", "--length", 1000], "--length is 1000; "),
        ("sequence", ["a", "--top", 0], "--top is 0; it must be at least 1"),
        (
            "span",
            ["a", "--null-threshold", 1.5],
            "--null-threshold is 1.5, but without --unanswerable every question",
        ),
        (
            "span",
            ["a", "--unanswerable", "--null-threshold", "nan"],
            "--null-threshold is nan; it is a difference",
        ),
        ("sequence", ["a", "--batch-size", 0], "--batch-size is 0; it must be at least 1"),
        ("sequence", ["a", "--data", "b.tsv"], "give texts or --data, not both"),
        ("sequence", ["--data", "b.tsv"], "b.tsv does not exist"),
        ("sequence", ["a", "--column", "text"], "--column describes --data, which is missing"),
    ],
)
def test_invalid_arguments(models, kind, arguments, message):
    assert message in refused("predict", models[kind], *arguments)


def test_lines_that_are_not_utf8(models, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"fine\n\xff\xfe\n")))
    assert "standard input, line 2: byte 0xff is not valid UTF-8" in refused(
        "predict", models["sequence"]
    )


@pytest.mark.parametrize(
    ("tags", "entities"),
    [
        ("O B-PER I-PER O", ["PER 1 3"]),
        ("I-PER I-PER B-PER", ["PER 0 2", "PER 2 3"]),
        ("B-PER I-LOC I-LOC", ["PER 0 1", "LOC 1 3"]),
        ("B-LOC O I-LOC", ["LOC 0 1", "LOC 2 3"]),
        ("O O", []),
    ],
)
def test_tags_are_joined_to_entities(tags, entities):
    text = "abcd"
    words = [
        {"label": tag, "text": text[n], "start": n, "end": n + 1, "score": 0.1 * n}
        for n, tag in enumerate(tags.split())
    ]
    joined = join_entities(words, text)
    assert [f"{e['label']} {e['start']} {e['end']}" for e in joined] == entities
    for entity in joined:
        assert entity["text"] == text[entity["start"] : entity["end"]]
        assert entity["score"] == pytest.approx(0.1 * (entity["start"] + entity["end"] - 1) / 2)

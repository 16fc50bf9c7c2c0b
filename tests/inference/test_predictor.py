"""Answers to texts: those of `transformers` for the same checkpoint, in the order of the texts, whatever their lengths."""

from __future__ import annotations

import io
import itertools
import json
import sys

import numpy as np
import pytest
from helpers.cli import LETTERS, refused, succeed
from helpers.models import TEXTS

from flaxdistill.hub import checkpoint
from flaxdistill.inference import answers as questions
from flaxdistill.inference import predictor
from flaxdistill.train import batches as feed


def say(path, texts, pair=None, **how):
    examples = questions.examples_of(texts, pair)
    return [
        answer
        for _, answer in predictor.make_predict(checkpoint.read_model(str(path)), **how)(examples)
    ]


def loaded(path, kind: str):
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    model = getattr(transformers, f"AutoModelFor{kind}").from_pretrained(path).eval()

    def logits(*texts: str) -> dict[str, np.ndarray]:
        with torch.no_grad():
            rows = tokenizer(*texts, return_tensors="pt")
            return {name: value.numpy() for name, value in model(**rows).items()}

    return tokenizer, model, logits


def shares(logits: np.ndarray) -> np.ndarray:
    from scipy.special import softmax

    return softmax(logits, -1)


@pytest.mark.hf
@pytest.mark.torch
@pytest.mark.parametrize("pair", [None, "the bee sees a cat"])
def test_classes_and_numbers(models, pair):
    for kind in ("sequence", "number"):
        _, model, logits = loaded(models[kind], "SequenceClassification")
        for text, answer in zip(TEXTS, say(models[kind], TEXTS, pair), strict=True):
            theirs = logits(text, *([pair] if pair else []))["logits"][0]
            if kind == "number":
                assert answer["score"] == pytest.approx(theirs[0], abs=1e-5)
                continue
            expected = {model.config.id2label[n]: share for n, share in enumerate(shares(theirs))}
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
    some = 0
    for text, answer in zip(TEXTS, say(models["tokens"], TEXTS), strict=True):
        theirs = pipeline(text) if text else []
        some += len(theirs)
        assert [(e["label"], e["start"], e["end"], e["text"]) for e in answer["entities"]] == [
            (e["entity_group"], e["start"], e["end"], text[e["start"] : e["end"]]) for e in theirs
        ]
        for ours, other in zip(answer["entities"], theirs, strict=True):
            assert ours["score"] == pytest.approx(other["score"], abs=1e-5)
    assert some > 3


@pytest.mark.hf
@pytest.mark.torch
def test_words_and_their_tags(models):
    tokenizer, model, logits = loaded(models["plain"], "TokenClassification")
    for text, answer in zip(TEXTS, say(models["plain"], TEXTS), strict=True):
        row = tokenizer(text)
        places = row.word_ids()
        said = shares(logits(text)["logits"][0])
        firsts = [n for n, word in enumerate(places) if word is not None and places[n - 1] != word]
        assert [word["label"] for word in answer["words"]] == [
            model.config.id2label[said[n].argmax()] for n in firsts
        ]
        assert [word["score"] for word in answer["words"]] == pytest.approx(
            [said[n].max() for n in firsts], abs=1e-5
        )
        assert all(text[word["start"] : word["end"]] == word["text"] for word in answer["words"])


@pytest.mark.hf
@pytest.mark.torch
def test_spans(models):
    context = "the cat sees a dog. a bee sees the cat! the dog"
    tokenizer, _, logits = loaded(models["span"], "QuestionAnswering")
    for question, answer in zip(TEXTS[:3], say(models["span"], TEXTS[:3], context), strict=True):
        row = tokenizer(question, context, return_offsets_mapping=True)
        said = logits(question, context)
        start, end = said["start_logits"][0], said["end_logits"][0]
        second = [n for n, part in enumerate(row.sequence_ids()) if part == 1]
        pairs = [(i, j) for i, j in itertools.product(second, second) if i <= j < i + 30]
        pairs.sort(key=lambda pair: -start[pair[0]] - end[pair[1]])
        nbest: dict[
            str, tuple[int, int, float]
        ] = {}  # 14 tokens: all are among the 20 likeliest ends
        for i, j in pairs:
            a, b = row["offset_mapping"][i][0], row["offset_mapping"][j][1]
            nbest.setdefault(context[a:b], (a, b, start[i] + end[j]))
        texts, scores = list(nbest), np.array([score for _, _, score in nbest.values()])
        likely = zip(
            texts[:5], shares(scores[:20]), strict=False
        )  # of all that the script looks at
        for told, (text, share) in zip(answer["answers"], likely, strict=True):
            assert (told["answer"], told["start"], told["end"]) == (text, *nbest[text][:2])
            assert told["score"] == pytest.approx(share, abs=1e-5)
        assert answer == answer["answers"][0] | {"answers": answer["answers"]}
        # With no answer among them, which the script puts behind the others where it is none of the n best.
        nothing = float(start[0] + end[0])
        at = int((scores >= nothing).sum())
        those, values = [*texts[:at], "", *texts[at:]], np.insert(scores, at, nothing)
        n = [*range(20)] if at < 20 else [*range(20), at]
        (other,) = say(models["span"], [question], context, unanswerable=True, top=20)
        assert [one["answer"] for one in other["answers"]] == [those[k] for k in n][:20]
        expected = shares(values[n])
        assert [one["score"] for one in other["answers"]] == pytest.approx(expected[:20], abs=1e-5)
        assert other["answer"] == ("" if at == 0 else texts[0])
        assert other["score"] == pytest.approx(expected[0], abs=1e-5)
        for above, right in ((-0.01, ""), (0.01, texts[0])):
            how = {"unanswerable": True, "null_threshold": nothing - float(scores[0]) + above}
            assert say(models["span"], [question], context, **how)[0]["answer"] == right
    # Windows: the same answer wherever it stands in a text too long for a row.
    (long,) = say(models["span"], ["the cat"], "a cat sees. " * 30, length=32)
    assert ("a cat sees. " * 30)[long["start"] : long["end"]] == long["answer"] != ""


@pytest.mark.hf
@pytest.mark.torch
def test_words_for_masks(models):
    tokenizer, _, logits = loaded(models["mlm"], "MaskedLM")
    texts = ["the [MASK] sees a dog", "[MASK] [MASK]", "[MASK]cat!"]
    for text, answer in zip(texts, say(models["mlm"], texts, top=3), strict=True):
        at = np.flatnonzero(np.array(tokenizer(text)["input_ids"]) == tokenizer.mask_token_id)
        said = shares(logits(text)["logits"][0][at])
        assert len(answer["masks"]) == len(at)
        for words, theirs in zip(answer["masks"], said, strict=True):
            order = np.argsort(-theirs)[:3]
            assert [word["word"] for word in words] == tokenizer.convert_ids_to_tokens(order)
            assert [word["score"] for word in words] == pytest.approx(theirs[order], abs=1e-5)


def test_a_mask_far_into_a_text(models):
    """The model sees what stands around it."""
    words = ["the", "cat", "sees", "a", "dog", "."] * 10
    words[31] = "[MASK]"
    (answer,) = say(models["mlm"], [" ".join(words)], length=16)
    (near,) = say(models["mlm"], [" ".join(words[31 - 7 : 31 + 7])])
    assert _rounded(answer) == _rounded(near)
    (start,) = say(models["mlm"], [" ".join(words[29:])], length=16)
    (near,) = say(models["mlm"], [" ".join(words[29 : 29 + 14])])
    assert _rounded(start) == _rounded(near)


@pytest.mark.slow
def test_answers_stand_in_the_order_of_the_texts(models, monkeypatch):
    monkeypatch.setattr(predictor, "WINDOW", 2)
    generator = np.random.default_rng(0)
    texts = [
        " ".join(generator.choice(list(LETTERS), generator.integers(0, 40))) for _ in range(70)
    ]
    for kind in ("sequence", "tokens"):
        alone = [say(models[kind], [text])[0] for text in texts[:20]]
        together = say(models[kind], texts, batch_size=8)
        assert len(together) == len(texts)
        for one, other in zip(alone, together, strict=False):
            np.testing.assert_equal(_rounded(one), _rounded(other))


def _rounded(value):
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    return round(value, 4) if isinstance(value, float) else value


def test_texts_are_taken_as_they_are_needed(models):
    """Memory does not grow with their number: no more than two windows are read before the first answer is given."""
    taken = itertools.count()
    endless = (questions.Example(f"text {n}", "a cat") for n in taken)
    answers = predictor.make_predict(checkpoint.read_model(str(models["sequence"])), batch_size=2)(
        endless
    )
    for _ in range(10):
        next(answers)
    assert next(taken) <= 2 + 2 * 2 * predictor.WINDOW + 1


def test_few_short_texts_cost_what_they_weigh(models, monkeypatch):
    shapes, batches = [], feed.bucketed

    def watched(*how):
        for batch in batches(*how):
            shapes.append(batch.input_ids.shape)
            yield batch

    monkeypatch.setattr(feed, "bucketed", watched)
    assert len(say(models["sequence"], ["a cat"] * 3)) == 3 and shapes == [(8, 8)], (
        "a row on each device, as long as the texts"
    )


def test_the_verb(models, tmp_path, capsys, monkeypatch):
    def lines(*arguments: object) -> list[dict]:
        return [json.loads(line) for line in succeed("predict", *arguments).splitlines()]

    told = lines(models["sequence"], "the cat", "a dog", "--top", 2)
    assert [line["text"] for line in told] == ["the cat", "a dog"]
    assert all(len(line["scores"]) == 2 for line in told)
    file = tmp_path / "rows.tsv"
    file.write_text("one\ttwo\nthe cat\ta dog\n")
    (from_file,) = lines(models["sequence"], "--data", file, "--column", "one", "--pair", "two")
    (told_both,) = lines(models["sequence"], "the cat", "--pair", "a dog")
    assert from_file == told_both
    monkeypatch.setattr(
        sys, "stdin", io.TextIOWrapper(io.BytesIO("the cat\ta dog\r\n\nä cat".encode()))
    )
    first, empty, last = lines(models["sequence"])
    assert first == told_both
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
    ("kind", "arguments", "told"),
    [
        ("mlm", ["no mask"], "text 1: there is no [MASK] in 'no mask'"),
        (
            "span",
            ["a question"],
            "text 1: expected a text but found None; name its column in source.pair, or give predict --pair",
        ),
        ("sequence", ["a", "--length", 1000], "--length is 1000; "),
        ("sequence", ["a", "--top", 0], "--top is 0; it must be at least 1"),
        (
            "span",
            ["a", "--null-threshold", 1.5],
            "--null-threshold is 1.5, but without --unanswerable no question",
        ),
        (
            "span",
            ["a", "--unanswerable", "--null-threshold", "nan"],
            "--null-threshold is nan; it is a difference",
        ),
        ("sequence", ["a", "--batch-size", 0], "--batch-size is 0; it must be at least 1"),
        ("sequence", ["a", "--data", "b.tsv"], "give texts or --data, not both"),
        ("sequence", ["--data", "b.tsv"], "b.tsv does not exist"),
        ("sequence", ["a", "--column", "text"], "--column is of what --data names; give that too"),
    ],
)
def test_mistakes(models, kind, arguments, told):
    assert told in refused("predict", models[kind], *arguments)


def test_lines_of_other_bytes(models, monkeypatch):
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
def test_tags_become_entities(tags, entities):
    text = "abcd"
    words = [
        {"label": tag, "text": text[n], "start": n, "end": n + 1, "score": 0.1 * n}
        for n, tag in enumerate(tags.split())
    ]
    found = questions.joined(words, text)
    assert [f"{e['label']} {e['start']} {e['end']}" for e in found] == entities
    for entity in found:
        assert entity["text"] == text[entity["start"] : entity["end"]]
        assert entity["score"] == pytest.approx(0.1 * (entity["start"] + entity["end"] - 1) / 2)

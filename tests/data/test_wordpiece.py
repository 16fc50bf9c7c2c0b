"""Training a vocabulary: reproducible, and equal to that of Hugging Face's trainer."""

import json
import os
import subprocess
import sys

import pytest

from flaxdistill.data.wordpiece import train_wordpiece
from flaxdistill.errors import UserError

TEXTS = [
    "Learning from a teacher: the teacher teaches, the learner learns.",
    "Ein Schüler lernt; 東京 \t and a longest word, pneumonoultramicroscopic.",
    "",
] * 3


def test_training_is_reproducible_in_any_process_and_order():
    code = (
        "import json, sys; from flaxdistill.data.wordpiece import train_wordpiece;"
        "print(train_wordpiece(json.load(sys.stdin), 80).digest)"
    )
    digests = {train_wordpiece(texts, 80).digest for texts in (TEXTS, reversed(TEXTS))}
    for seed, threads in [("1", "1"), ("2", "4"), ("3", "2")]:
        environment = os.environ | {"PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": threads}
        run = subprocess.run(
            [sys.executable, "-c", code],
            input=json.dumps(TEXTS),
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        digests.add(run.stdout.strip())
    assert len(digests) == 1


def test_training_learns_what_the_rust_trainer_learns():
    from tokenizers import BertWordPieceTokenizer

    # Pair counts without ties, where the result of the Rust trainer is unique.
    words = {"abcd": 101, "abce": 53, "fgab": 29, "fgh": 17, "éab": 7, "AB": 5}
    texts = [" ".join([word] * count) for word, count in words.items()]
    reference = BertWordPieceTokenizer()
    reference.train_from_iterator(texts, vocab_size=30, show_progress=False)
    assert set(train_wordpiece(texts, 30).tokenizer.get_vocab()) == set(reference.get_vocab())


def test_training_respects_the_size():
    assert train_wordpiece(TEXTS, 200).size < 200  # so little text has no more pieces
    assert train_wordpiece(TEXTS, 80).size == 80
    with pytest.raises(
        UserError, match=r"Vocabulary size 40 is too small: .* are 45; raise the size"
    ):
        train_wordpiece(TEXTS, 40)
    with pytest.raises(UserError, match="holds no word"):
        train_wordpiece(["", " \n"], 40)


def test_rare_characters_do_not_take_up_the_alphabet(monkeypatch):
    monkeypatch.setattr("flaxdistill.data.wordpiece.ALPHABET_LIMIT", 3)
    vocabulary = train_wordpiece(["abc abc abc abd"], 20)
    assert "d" not in vocabulary.tokenizer.get_vocab()
    known, unknown = vocabulary.encode(["abc abd"])[0]
    assert vocabulary.decode([known]) == "abc" and unknown == vocabulary.unk

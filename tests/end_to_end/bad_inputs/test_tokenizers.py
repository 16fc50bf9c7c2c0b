"""Tokenizers that are missing, damaged or of another model."""

import pytest
from helpers.bad_inputs import (
    DISTILL,
    TRAIN,
    BadInput,
    append,
    both,
    check_refused,
    make_model,
    remove,
    run_in_process,
    truncate,
    write,
)

MERGES = write("merges.txt", "")

BAD_INPUTS = {
    "tokenizer does not exist": BadInput(
        f"{TRAIN} --corpus.tokenizer nowhere", "Tokenizer nowhere does not exist"
    ),
    "tokenizer of another file": BadInput(
        f"{TRAIN} --corpus.tokenizer text.txt", "text.txt holds no tokenizer"
    ),
    "tokenizer cut": BadInput(
        f"{TRAIN} --corpus.tokenizer run/tokenizer",
        "tokenizer.json is not valid JSON",
        truncate("run/tokenizer/tokenizer.json"),
    ),
    "tokenizer of another kind": BadInput(
        f"{TRAIN} --corpus.tokenizer t",
        "tokenizer.json is not a tokenizer",
        write("t/tokenizer.json", '{"version": "1.0"}'),
    ),
    "tokenizer without a mask": BadInput(
        f"{TRAIN} --corpus.tokenizer vocab.txt",
        "vocab.txt has no mask token",
        write("vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n"),
    ),
    "tokenizer without merges": BadInput(
        f"{TRAIN} --corpus.tokenizer vocab.json",
        "vocab.json needs merges.txt in the same folder",
        write("vocab.json", "{}"),
    ),
    "tokenizer of lists": BadInput(
        f"{TRAIN} --corpus.tokenizer vocab.json",
        "vocab.json",
        both(
            write("vocab.json", '{"<s>": [], "</s>": 1, "<unk>": 2, "<pad>": 3, "<mask>": 4}'),
            write("merges.txt", ""),
        ),
    ),
    "tokenizer of a huge id": BadInput(
        f"{TRAIN} --corpus.tokenizer vocab.json",
        "vocab.json",
        both(
            write(
                "vocab.json", '{"<s>": 0, "</s>": 1, "<unk>": 2, "<pad>": 3, "<mask>": 4000000000}'
            ),
            MERGES,
        ),
    ),
    "tokenizer config of lists": BadInput(
        f"{TRAIN} --corpus.tokenizer bert",
        'for "mask_token"',
        write("bert/tokenizer_config.json", '{"mask_token": ["a"]}'),
    ),
    "tokenizer of another model": BadInput(
        f"{DISTILL} --corpus.tokenizer run/tokenizer", "leave corpus.tokenizer unset"
    ),
    "vocabulary of another model": BadInput(
        f"{DISTILL} --student.start.path other",
        "but the corpus is encoded with another one",
        make_model("other", ("entirely", "other")),
    ),
    "teacher without a tokenizer": BadInput(
        DISTILL, "bert holds no tokenizer", remove("bert/vocab.txt")
    ),
    "vocabulary larger than the embedding": BadInput(
        DISTILL,
        "its tokenizer and weights do not belong together",
        append("bert/vocab.txt", "more\nand more\n"),
    ),
}


@pytest.mark.parametrize("bad", BAD_INPUTS.values(), ids=BAD_INPUTS)
def test_is_refused(bad, folder):
    check_refused(bad, folder, run_in_process)

"""Sources, models and word lists that augment cannot use."""

import pytest
from helpers.bad_inputs import BadInput, check_refused, run_in_process, write

AUGMENT = "augment rows.tsv out --model bert --column sentence --length 16"

BAD_INPUTS = {
    "replacement probability above 1": BadInput(f"{AUGMENT} --probability 2", "probability is 2.0"),
    "replacement probability nan": BadInput(f"{AUGMENT} --probability nan", "probability is nan"),
    "variants 0": BadInput(f"{AUGMENT} --variants 0", "variants is 0"),
    "augment seed below 0": BadInput(f"{AUGMENT} --seed -1", "seed is -1"),
    "source does not exist": BadInput(
        "augment none.tsv out --model bert --length 16", "none.tsv does not exist"
    ),
    "source without the column": BadInput(
        "augment rows.tsv out --model bert --length 16", "no column 'text', only 'sentence'"
    ),
    "source without rows": BadInput(
        "augment a.tsv out --model bert --column sentence --length 16",
        "a.tsv holds no rows",
        write("a.tsv", "sentence\n"),
    ),
    "source ragged": BadInput(
        "augment a.tsv out --model bert --column sentence --length 16",
        "a.tsv, line 3",
        write("a.tsv", "sentence\na\nb\tc\n"),
    ),
    "variants of tags": BadInput(
        "augment a.jsonl out --model bert --label tags --length 16",
        "is neither a class nor a number",
        write("a.jsonl", '{"text": "a", "tags": [1]}\n'),
    ),
    "variants of long texts": BadInput(
        f"{AUGMENT} --length 99", "length 99 exceeds the 16 positions"
    ),
    "variants into a model": BadInput(
        "augment rows.tsv bert --model bert --column sentence --length 16",
        "bert exists and holds no variants of rows",
    ),
    "length too short for a text": BadInput(
        "augment rows.tsv out --model bert --column sentence --length 4", "length is 4"
    ),
    "stop words do not exist": BadInput(
        f"{AUGMENT} --stop-words none.txt", "none.txt cannot be read"
    ),
    "stop words of bytes": BadInput(
        f"{AUGMENT} --stop-words a.txt",
        "a.txt cannot be read (it is not UTF-8)",
        write("a.txt", b"\xff\xfe"),
    ),
    "vectors do not exist": BadInput(
        f"{AUGMENT} --glove none.txt --length 16", "none.txt cannot be read"
    ),
    "vectors that are not numbers": BadInput(
        f"{AUGMENT} --glove a.txt --length 16",
        "a.txt:2: expected a word and 2 numbers",
        write("a.txt", "the 1 2\ncat 1 x\n"),
    ),
}


@pytest.mark.parametrize("bad", BAD_INPUTS.values(), ids=BAD_INPUTS)
def test_is_refused(bad, folder):
    check_refused(bad, folder, run_in_process)

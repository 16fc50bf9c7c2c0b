"""Config files that cannot be loaded, and stages that cannot be linked."""

import pytest
from helpers.bad_inputs import BadInput, check_refused, run_in_process, write, write_config

TRAIN_MINE = "train mine.py --workdir w"
DISTILL_MINE = "distill mine.py --workdir w"

BAD_INPUTS = {
    "config does not exist": BadInput(
        "distill none.py", "there is no config none.py; give a Python file, or one of"
    ),
    "config is a folder": BadInput("distill bert", "there is no config bert"),
    "config of another suffix": BadInput("distill text.txt", "text.txt is not a Python file"),
    "config without a config variable": BadInput(
        "train mine.py", "mine.py defines no `config`", write("mine.py", "x = 1\n")
    ),
    "config is a number": BadInput(
        "train mine.py", "mine.py defines no `config`", write("mine.py", "config = 3\n")
    ),
    "config without stages": BadInput(
        "train mine.py", "mine.py defines no `config`", write("mine.py", "config = {}\n")
    ),
    "config raises": BadInput(
        "train mine.py",
        "mine.py, line 3: ValueError: math domain error",
        write("mine.py", "import math\n\nconfig = math.sqrt(-1)\n"),
    ),
    "config raises in a library": BadInput(
        "train mine.py",
        "mine.py, line 2: JSONDecodeError",
        write("mine.py", "import json\njson.loads('{')\n"),
    ),
    "config with long error": BadInput(
        "train mine.py",
        "mine.py, line 1: ValueError",
        write("mine.py", "raise ValueError('one\\ntwo\\n' + 'x' * 5000)\n"),
        truncated=True,
    ),
    "config with a syntax error": BadInput(
        "train mine.py", "mine.py, line 2: SyntaxError", write("mine.py", "x = 1\nif x\n")
    ),
    "config of binary data": BadInput(
        "train mine.py", "mine.py", write("mine.py", b"\0\xff\xfe" * 9)
    ),
    "config of latin 1": BadInput(
        "train mine.py", "mine.py", write("mine.py", "name = 'café'\n".encode("latin-1"))
    ),
    "config that exits": BadInput(
        "train mine.py", "mine.py, line 2", write("mine.py", "import sys\nsys.exit(3)\n")
    ),
    "config that recurses": BadInput(
        "train mine.py", "mine.py, line 1: RecursionError", write("mine.py", "def f(): f()\nf()\n")
    ),
    "config nested deeply": BadInput(
        "train mine.py", "mine.py", write("mine.py", "config = " + "(" * 5000 + ")" * 5000)
    ),
    "field out of range": BadInput(
        "train mine.py",
        "line 2: steps is 0;",
        write(
            "mine.py",
            "from flaxdistill.experiment.config import Experiment\nconfig = Experiment(steps=0)\n",
        ),
    ),
    "field unknown": BadInput(
        "train mine.py",
        "unexpected keyword argument 'step'",
        write(
            "mine.py",
            "from flaxdistill.experiment.config import Experiment\nconfig = Experiment(step=1)\n",
        ),
    ),
    "field of another type": BadInput(
        "train mine.py",
        "steps is 2.5; give a whole number",
        write_config("replace(alone, steps=2.5)"),
    ),
    "field of another type in range check": BadInput(
        "train mine.py", "mine.py, line", write_config("replace(alone, steps='many')")
    ),
    "field is NaN": BadInput(
        TRAIN_MINE, "steps", write_config("replace(alone, steps=float('nan'))")
    ),
    "path with NUL": BadInput(
        TRAIN_MINE,
        "a\\x00b",
        write_config("replace(alone, corpus=replace(text, sources=(Source(path='a\\0b.txt'),)))"),
    ),
    "loss of another type": BadInput(
        "train mine.py",
        "losses.a is 3; give a loss",
        write_config("replace(alone, losses={'a': 3})"),
    ),
    "path of a corpus is a number": BadInput(
        "train mine.py",
        "config.corpus.sources.0.path is 3",
        write_config("replace(alone, corpus=replace(text, sources=(Source(path=3),)))"),
    ),
    "stage name with a space": BadInput(
        "train mine.py", "stage 'a b' is not an identifier", write_config("{'a b': alone}")
    ),
    "stage named after a keyword": BadInput(
        "train mine.py", "stage 'class' is not an identifier", write_config("{'class': alone}")
    ),
    "stage named after a flag": BadInput(
        "train mine.py", "'data', the name of a flag or folder", write_config("{'data': alone}")
    ),
    "reference to a later stage": BadInput(
        TRAIN_MINE,
        "stage 'one' needs stage 'two', but there is no earlier stage",
        write_config("{'one': replace(alone, reference=Stage('two')), 'two': alone}"),
    ),
    "reference to an unknown stage": BadInput(
        TRAIN_MINE,
        "earlier stages are one",
        write_config("{'one': alone, 'two': replace(alone, reference=Stage('thre'))}"),
    ),
    "stage reference without stages": BadInput(
        TRAIN_MINE, "needs stage 'one'", write_config("replace(alone, reference=Stage('one'))")
    ),
    "stage reference outside the workdir": BadInput(
        TRAIN_MINE,
        "needs stage '../run'",
        write_config("replace(alone, reference=Stage('../run'))"),
    ),
    "second stage without its teacher": BadInput(
        DISTILL_MINE,
        "there is no directory nowhere",
        write_config("{'one': alone, 'two': replace(taught, teacher=Teacher(path='nowhere'))}"),
    ),
    "second stage without its text": BadInput(
        TRAIN_MINE,
        "none.txt does not exist",
        write_config(
            "{'one': alone, 'two': replace(alone, "
            "corpus=replace(text, sources=(Source(path='none.txt'),)))}"
        ),
    ),
    "second stage with an indivisible batch": BadInput(
        DISTILL_MINE.replace("distill", "train"),
        "batch_size 20 is not divisible",
        write_config("{'one': alone, 'two': replace(alone, batch_size=20)}"),
    ),
    "second stage without a masked-LM teacher": BadInput(
        DISTILL_MINE,
        "losses.vocab needs masked-LM logits",
        write_config(
            "{'one': alone, 'two': replace(classes, "
            "teacher=Teacher(path=Stage('one')), losses={'vocab': VocabKD()})}"
        ),
    ),
}


@pytest.mark.parametrize("bad", BAD_INPUTS.values(), ids=BAD_INPUTS)
def test_is_refused(bad, folder):
    check_refused(bad, folder, run_in_process)

"""Commands and flags that do not exist, and values out of range."""

import pytest
from helpers.bad_inputs import (
    DISTILL,
    TRAIN,
    BadInput,
    check_refused,
    run_in_process,
    run_in_subprocess,
    write,
    write_config,
)

LETTERS = "\n\n".join(
    f"{n} abcdefghijklmnopqrstuvwxyz абвгдежзийклмнопрстуфхцчшщъыьэюя" for n in range(99)
)
TRAIN_ON_TEXT = f"{TRAIN} --corpus.sources.0.path"

BAD_INPUTS = {
    "unknown command": BadInput("bake", "there is no command 'bake'; use one of distill, train"),
    "misspelt command": BadInput("distil taught.py", "did you mean distill?"),
    "no config": BadInput("distill", "CONFIG"),
    "flags and no config": BadInput("train --workdir w", "CONFIG"),
    "no OUT": BadInput("export run", "OUT"),
    "private without push": BadInput("export run out --private", "--private needs --push"),
    "push to a name without a user": BadInput(
        "export run out --push run",
        "--push 'run' is not the name of a repository; write it as USER/REPO",
    ),
    "push to a URL": BadInput(
        "export run out --push https://huggingface.co/a/b", "is not the name of a repository"
    ),
    "push to an empty name": BadInput(
        "export run out --push ''", "--push '' is not the name of a repository"
    ),
    "push offline": BadInput(
        "export run out --push me/student", "needs the Hub but HF_HUB_OFFLINE is set"
    ),
    "augment without a model": BadInput("augment rows.tsv out --column sentence", "--model"),
    "unknown flag of a command": BadInput("inspect bert --verbose", "--verbose"),
    "flag without its value": BadInput("eval run --model", "--model"),
    "unknown flag": BadInput(f"{TRAIN} --batch-sise 8", "perhaps you meant --batch-size"),
    "unknown flag of a loss": BadInput(f"{TRAIN} --losses.mlm.wieght 2", "--losses.mlm.weight"),
    "text for an integer": BadInput(f"{TRAIN} --batch-size many", "many"),
    "fraction for an integer": BadInput(f"{TRAIN} --batch-size 8.5", "8.5"),
    "incomplete schedule": BadInput(
        f"{TRAIN} --losses.mlm.weight 4:1", "'4:1' is not a schedule; write a number such as 2"
    ),
    "schedule of nan": BadInput(f"{TRAIN} --losses.mlm.weight nan", "nan"),
    "schedule with a negative step": BadInput(
        f"{TRAIN} --losses.mlm.weight 4:1:-10", "'4:1:-10' is not a schedule"
    ),
    "temperature 0": BadInput(
        f"{DISTILL} --losses.vocab.temperature 0", "temperature is 0; it must be above 0"
    ),
    "learning rate below 0": BadInput(
        f"{TRAIN} --optim.learning-rate -1", "optim.learning_rate is -1.0; it must be above 0"
    ),
    "learning rate nan": BadInput(
        f"{TRAIN} --optim.learning-rate nan", "optim.learning_rate is nan"
    ),
    "b2 of 1": BadInput(f"{TRAIN} --optim.b2 1", "optim.b2 is 1.0"),
    "eps below 0": BadInput(f"{TRAIN} --optim.eps -1", "optim.eps is -1.0"),
    "clip below 0": BadInput(f"{TRAIN} --optim.clip -1", "optim.clip is -1.0"),
    "steps 0": BadInput(f"{TRAIN} --steps 0", "steps is 0; it must be at least 1"),
    "eval every 0": BadInput(f"{TRAIN} --eval-every 0", "eval_every is 0"),
    "huge batch": BadInput(
        f"{TRAIN} --batch-size 80000000000000000", "batch_size is 80000000000000000; it must be"
    ),
    "too many steps": BadInput(
        f"{TRAIN} --steps 99999999999999999999", "steps is 99999999999999999999; it must be"
    ),
    "unsupported dtype": BadInput(f"{TRAIN} --student.dtype float16", "float32"),
    "heads that do not divide the width": BadInput(
        f"{TRAIN} --student.num-heads 3", "hidden_size 16 is not divisible by num_heads 3"
    ),
    "heads 0": BadInput(f"{TRAIN} --student.num-heads 0", "num_heads is 0"),
    "layers 0": BadInput(f"{TRAIN} --student.num-layers 0", "num_layers is 0"),
    "layers below 0": BadInput(f"{TRAIN} --student.num-layers -1", "num_layers is -1"),
    "width below 0": BadInput(f"{TRAIN} --student.hidden-size -16", "hidden_size is -16"),
    "dropout nan": BadInput(f"{TRAIN} --student.dropout nan", "dropout is nan"),
    "dropout 1": BadInput(f"{TRAIN} --student.attention-dropout 1", "attention_dropout is 1.0"),
    "unknown family": BadInput(
        f"{TRAIN} --student.family roberta", "supported are bert, distilbert"
    ),
    "mask rate": BadInput(f"{TRAIN} --task.rate 1.5", "task.rate is 1.5"),
    "mask rate nan": BadInput(f"{TRAIN} --task.rate nan", "task.rate is nan"),
    "mask rate 0": BadInput(f"{TRAIN} --task.rate 0", "task.rate is 0, which masks nothing"),
    "mask probabilities above 1": BadInput(
        f"{TRAIN} --task.unchanged 0.9 --task.random 0.9", "task.unchanged 0.9 and task.random 0.9"
    ),
    "smoothing inf": BadInput(f"{TRAIN} --task.smoothing inf", "task.smoothing is inf"),
    "whole words with a batch scope": BadInput(
        f"{TRAIN} --task.whole-words --task.scope batch", "set task.scope to row"
    ),
    "short max length": BadInput(f"{TRAIN} --corpus.max-length 8", "length is 8"),
    "long max length": BadInput(
        f"{TRAIN} --corpus.max-length 32", "corpus.max_length 32 exceeds the 16 positions"
    ),
    "small vocabulary": BadInput(f"{TRAIN} --corpus.vocab-size 10", "vocab_size is 10"),
    "vocabulary too small": BadInput(
        f"{TRAIN_ON_TEXT} a.txt --corpus.vocab-size 64",
        "Vocabulary size 64 is too small",
        write("a.txt", LETTERS),
    ),
    "held out nan": BadInput(f"{TRAIN} --corpus.held-out nan", "held_out is nan"),
    "held out 1": BadInput(f"{TRAIN} --corpus.held-out 1", "held_out is 1.0"),
    "held-out blocks 0": BadInput(f"{TRAIN} --corpus.held-out-blocks 0", "held_out_blocks is 0"),
    "source weight nan": BadInput(
        f"{TRAIN} --corpus.sources.0.weight nan", "'text.txt' has weight nan"
    ),
    "seed below 0": BadInput(f"{TRAIN} --seed -1", "seed is -1"),
    "seed too large": BadInput(f"{TRAIN} --seed 4611686018427387904", "below 2^30"),
    "seed twice": BadInput(f"{TRAIN} --seeds 1 1", "seeds is 1, 1; list each value once"),
    "learning rates with nan": BadInput(
        f"{TRAIN} --learning-rates 1e-3 nan", "learning_rates is 0.001, nan; each must be above 0"
    ),
    "flag of another stage": BadInput(
        "train mine.py --steps 3", "--one.steps", write_config("{'one': alone, 'two': alone}")
    ),
    "no such stage": BadInput(
        "train mine.py --only thre",
        "--only thre matches no stage of this config; use three",
        write_config("{'three': alone}"),
    ),
    "process index without a coordinator": BadInput(
        f"{TRAIN} --processes.index 0",
        "--processes.coordinator and --processes.number must be given",
    ),
    "process index too large": BadInput(
        f"{TRAIN} --processes.coordinator a:1 --processes.number 2 --processes.index 2",
        "--processes.index is 2",
    ),
    "coordinator without a port": BadInput(
        f"{TRAIN} --processes.coordinator a --processes.number 1 --processes.index 0",
        "write it as host:port",
    ),
}


@pytest.mark.parametrize("bad", BAD_INPUTS.values(), ids=BAD_INPUTS)
def test_is_refused(bad, folder):
    check_refused(bad, folder, run_in_process)


IN_SUBPROCESS = {name: BAD_INPUTS[name] for name in ("unknown flag of a loss",)}


@pytest.mark.parametrize("bad", IN_SUBPROCESS.values(), ids=IN_SUBPROCESS)
def test_is_refused_in_a_subprocess(bad, folder):
    check_refused(bad, folder, run_in_subprocess)

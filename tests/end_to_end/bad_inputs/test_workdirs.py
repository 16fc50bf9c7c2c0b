"""Workdirs and output folders that cannot be used."""

import pytest
from helpers.bad_inputs import (
    TRAIN,
    BadInput,
    append,
    both,
    check_refused,
    halve_files,
    lock,
    make_folder,
    remove,
    run_in_process,
    run_in_subprocess,
    set_field,
    truncate,
    write,
)

AUGMENT = "augment rows.tsv out --model bert --column sentence --length 16"
EXPERIMENT = "run/experiment.json"

BAD_INPUTS = {
    "workdir of another experiment": BadInput(
        "train alone.py --workdir run --seed 1 --steps 9",
        "run holds another experiment (seed 0 -> 1)",
    ),
    "workdir of another schedule": BadInput(
        "train alone.py --workdir run --losses.mlm.weight 3", "losses.mlm.weight.start 1.0 -> 3.0"
    ),
    "workdir of another process": BadInput(
        "train alone.py --workdir run --steps 9", "another process is using run", lock("run/.lock")
    ),
    "workdir of another text": BadInput(
        "train alone.py --workdir run --corpus.sources.0.path other.txt --steps 9",
        "run holds another experiment (corpus.sources",
        write("other.txt", "a b c\n\n" * 99),
    ),
    "workdir of changed text": BadInput(
        "train alone.py --workdir run --steps 9",
        "run holds another experiment (inputs.blocks",
        append("text.txt", "\n\nmore\n"),
    ),
    "workdir is a model": BadInput(
        "train alone.py --workdir bert", "bert exists and is not a flaxdistill run"
    ),
    "workdir is a file": BadInput(
        "train alone.py --workdir text.txt", "text.txt exists and is not a flaxdistill run"
    ),
    "workdir below a file": BadInput("train alone.py --workdir text.txt/w", "text.txt"),
    "workdir of brackets": BadInput(
        "train alone.py --workdir w[1]", "w[1] has a square bracket in its path"
    ),
    "workdir without permission": BadInput(
        "train alone.py --workdir /sys/flaxdistill", "/sys/flaxdistill"
    ),
    "data dir without permission": BadInput(
        f"{TRAIN} --data-dir /sys/flaxdistill", "/sys/flaxdistill"
    ),
    "data dir is a file": BadInput(f"{TRAIN} --data-dir text.txt", "text.txt"),
    "workdir with an empty name": BadInput(
        "train alone.py --workdir ''", ". exists and is not a flaxdistill run"
    ),
    "batch larger than memory": BadInput(
        f"{AUGMENT} --batch-size 100000000000000", "out of memory"
    ),
    "eval of a model": BadInput("eval bert", "bert is not a workdir of flaxdistill"),
    "export of a model": BadInput("export bert out", "bert is not a workdir of flaxdistill"),
    "inspect a missing folder": BadInput("inspect nowhere", "there is no directory nowhere"),
    "inspect a text file": BadInput("inspect text.txt", "text.txt is a file"),
    "inspect an empty folder": BadInput(
        "inspect empty", "empty has no config.json", make_folder("empty")
    ),
    "experiment cut": BadInput(
        "eval run", "run/experiment.json is not valid JSON", truncate("run/experiment.json")
    ),
    "experiment missing a part": BadInput(
        "eval run",
        "run/experiment.json is damaged or of another version, with no 'experiment'",
        set_field(EXPERIMENT, "experiment", ...),
    ),
    "experiment without inputs": BadInput(
        "eval run", "with no 'inputs'", set_field(EXPERIMENT, "inputs", ...)
    ),
    "experiment without student": BadInput(
        "export run out", "with no 'student'", set_field(EXPERIMENT, "student", ...)
    ),
    "experiment of an earlier version": BadInput(
        "eval run", "is damaged or of another version", set_field(EXPERIMENT, "format", 1)
    ),
    "experiment that names code": BadInput(
        "eval run",
        "'subprocess:Popen', which is not a config class",
        set_field(EXPERIMENT, "experiment.optim.class", "subprocess:Popen"),
    ),
    "experiment that names a function of the package": BadInput(
        "eval run",
        "'flaxdistill.cli.main:main', which is not a config class",
        set_field(EXPERIMENT, "experiment.optim.class", "flaxdistill.cli.main:main"),
    ),
    "experiment of another object": BadInput(
        "eval run",
        "run/experiment.json",
        set_field(EXPERIMENT, "experiment.optim.class", "EncoderConfig"),
    ),
    "experiment of another kind": BadInput(
        "eval run",
        "run/experiment.json",
        set_field(EXPERIMENT, "experiment.corpus", {"class": "AdamW"}),
    ),
    "experiment with text for an integer": BadInput(
        "eval run", "run/experiment.json", set_field(EXPERIMENT, "experiment.steps", "many")
    ),
    "experiment with a null": BadInput(
        "inspect run", "run/experiment.json", set_field(EXPERIMENT, "experiment.corpus", None)
    ),
    "experiment with a list for losses": BadInput(
        "inspect run", "run/experiment.json", set_field(EXPERIMENT, "experiment.losses", [1])
    ),
    "experiment with text for a batch size": BadInput(
        "inspect run",
        "run/experiment.json",
        set_field(EXPERIMENT, "experiment.eval_batch_size", "8"),
    ),
    "experiment with a path for a hash": BadInput(
        "eval run", "its inputs are not hashes", set_field(EXPERIMENT, "inputs.blocks", "../../..")
    ),
    "experiment with a list for a hash": BadInput(
        "eval run", "its inputs are not hashes", set_field(EXPERIMENT, "inputs.blocks", ["a"])
    ),
    "experiment of a family": BadInput(
        "export run out",
        "run/experiment.json does not fit this version",
        set_field(EXPERIMENT, "student.family", "gpt"),
    ),
    "experiment of a family of lists": BadInput(
        "export run out",
        "run/experiment.json does not fit this version",
        set_field(EXPERIMENT, "student.family", ["bert"]),
    ),
    "experiment of a width": BadInput(
        "export run out",
        "of another student",
        set_field(EXPERIMENT, "student.config.hidden_size", 32),
    ),
    "experiment of a huge width": BadInput(
        "export run out",
        "hidden_size is 1099511627776",
        set_field(EXPERIMENT, "student.config.hidden_size", 2**40),
    ),
    "experiment of many layers": BadInput(
        "export run out",
        "num_layers is 1000000000",
        set_field(EXPERIMENT, "student.config.num_layers", 10**9),
    ),
    "experiment in a folder": BadInput(
        "eval run", "run is not a workdir", both(remove(EXPERIMENT), make_folder(EXPERIMENT))
    ),
    "no checkpoint": BadInput(
        "export run out", "run has no complete checkpoint yet", remove("run/checkpoints")
    ),
    "checkpoint without data": BadInput(
        "export run out", "run/checkpoints/1 is damaged", remove("run/checkpoints/1/default")
    ),
    "checkpoint cut": BadInput(
        "eval run", "run/checkpoints/1 is damaged", halve_files("run/checkpoints")
    ),
    "checkpoints all cut": BadInput(
        "train alone.py --workdir run --steps 2",
        "no checkpoint in run/checkpoints can be read",
        halve_files("run/checkpoints"),
    ),
    "checkpoints is a file": BadInput(
        "export run out", "run", both(remove("run/checkpoints"), write("run/checkpoints", ""))
    ),
    "run without tokenizer files": BadInput(
        "export run out",
        "lacks its tokenizer files",
        both(remove("run/tokenizer"), make_folder("run/tokenizer")),
    ),
    "run without its data": BadInput("eval run", "is not a block store", remove("run/data")),
    "manifest cut": BadInput("eval run", "manifest", halve_files("run/data")),
    "blocks cut": BadInput(
        "inspect run/blocks",
        "bytes, but its manifest says",
        lambda folder: (
            next((folder / "run/data").iterdir()).rename("run/blocks"),
            truncate("run/blocks/train-0.npy")(folder),
        ),
    ),
    "split without data": BadInput(
        "eval task --split dev", "--split describes --data, which is missing"
    ),
    "export to a model": BadInput("export run bert", "bert exists and is not an empty directory"),
    "export into a file": BadInput(
        "export run text.txt", "text.txt exists and is not an empty directory"
    ),
    "export below a file": BadInput("export run text.txt/out", "text.txt"),
    "export without permission": BadInput(
        "export run /sys/flaxdistill", "cannot write /sys/flaxdistill"
    ),
    "convert to a run": BadInput("convert bert run", "run exists and is not an empty directory"),
    "convert to brackets": BadInput("convert bert out[1]", "has a square bracket in its path"),
    "convert of a run": BadInput("convert run out", "run has no config.json"),
    "convert an empty name": BadInput("convert '' out", ". has no config.json"),
    "convert of a long name": BadInput(f"convert {'a' * 300} out", "name"),
}


@pytest.mark.parametrize("bad", BAD_INPUTS.values(), ids=BAD_INPUTS)
def test_is_refused(bad, folder):
    check_refused(bad, folder, run_in_process)


IN_SUBPROCESS = {name: BAD_INPUTS[name] for name in ("checkpoint cut", "experiment of a width")}


@pytest.mark.parametrize("bad", IN_SUBPROCESS.values(), ids=IN_SUBPROCESS)
def test_is_refused_in_a_subprocess(bad, folder):
    check_refused(bad, folder, run_in_subprocess)

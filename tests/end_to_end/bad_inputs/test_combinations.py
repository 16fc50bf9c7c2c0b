"""Settings that are valid alone and not together."""

import pytest
from helpers.bad_inputs import (
    DISTILL,
    TRAIN,
    BadInput,
    check_refused,
    run_in_process,
    write_config,
)

TRAIN_MINE = "train mine.py --workdir w"
DISTILL_MINE = "distill mine.py --workdir w"

BAD_INPUTS = {
    "train with a teacher": BadInput("train taught.py --workdir w", "use flaxdistill distill"),
    "distill without a teacher": BadInput("distill alone.py --workdir w", "use flaxdistill train"),
    "batches and devices": BadInput(
        f"{TRAIN} --batch-size 20",
        "batch_size 20 is not divisible by 8 devices; nearest are 16 and 24",
    ),
    "micro-batches": BadInput(f"{TRAIN} --accumulate 2", "8 devices x 2 micro-batches"),
    "fsdp": BadInput(f"{TRAIN} --fsdp 3", "3 does not divide the 8 devices; use one of 1, 2, 4, 8"),
    "fsdp and tensor": BadInput(
        f"{TRAIN} --fsdp 4 --tensor 4", "fsdp 4 x tensor 4 does not divide the 8 devices"
    ),
    "tensor and heads": BadInput(
        f"{TRAIN} --tensor 4", "tensor 4 does not divide the heads of the student, 2"
    ),
    "gpu kernel on cpu": BadInput(
        f"{TRAIN} --student.attention cudnn", "student.attention cudnn needs a gpu"
    ),
    "gpu kernel of an ensemble on cpu": BadInput(
        DISTILL_MINE,
        "ensemble.b.attention cudnn needs a gpu",
        write_config(
            "replace(taught, ensemble={'b': "
            "replace(taught.teacher, attention='cudnn', dtype='bfloat16')})"
        ),
    ),
    "tpu kernel on cpu": BadInput(
        f"{DISTILL} --teacher.attention splash", "teacher.attention splash needs a tpu"
    ),
    "loss without a teacher": BadInput(
        TRAIN_MINE,
        "losses.v compares with a teacher",
        write_config("replace(alone, losses={'v': VocabKD()})"),
    ),
    "teacher without a loss": BadInput(
        DISTILL_MINE,
        "no loss compares with it",
        write_config("replace(taught, losses={'mlm': MaskedLM()})"),
    ),
    "teacher and reference": BadInput(
        f"{DISTILL} --reference bert", "evaluations compare with the teacher"
    ),
    "teacher without a path": BadInput(
        f"{DISTILL} --teacher.path ''", "give a directory, a Hub id or @stage"
    ),
    "no loss": BadInput(
        "train mine.py", "losses is empty", write_config("replace(alone, losses={})")
    ),
    "two losses with the same term": BadInput(
        DISTILL_MINE,
        "two losses have a term mlm",
        write_config("replace(taught, losses={'a': VocabKD(), 'b': MaskedLM()})"),
    ),
    "student without sizes": BadInput(
        TRAIN_MINE,
        "student.num_layers, student.hidden_size",
        write_config("replace(alone, student=Student(start=Start(path=None)))"),
    ),
    "task without a label column": BadInput(
        TRAIN_MINE, "no source has a label column", write_config("replace(classes, corpus=text)")
    ),
    "masked-LM loss of a labelled task": BadInput(
        TRAIN_MINE,
        "losses.mlm needs masked-LM logits",
        write_config("replace(classes, losses={'mlm': MaskedLM()})"),
    ),
    "layer map out of range": BadInput(
        f"{DISTILL} --losses.hidden.layers 9:1", "layers 9:1 names layer 9 of a student that has 1"
    ),
    "unknown layer map": BadInput(
        f"{DISTILL} --losses.hidden.layers even", "layers is 'even'; write uniform"
    ),
    "layers mapped twice": BadInput(
        f"{DISTILL} --losses.hidden.layers 1:1,-1:1", "names the pair 1:1 twice"
    ),
    "DistilBERT layer map of other sizes": BadInput(
        f"{DISTILL} --losses.hidden.layers distilbert", "distilbert maps 6 layers to 12"
    ),
    "unequal widths": BadInput(
        f"{DISTILL} --student.hidden-size 8 --student.start.layers random",
        "the student has 8 and the teacher 16",
    ),
    "more layers than the teacher": BadInput(
        f"{DISTILL} --student.num-layers 3", "cannot start from a teacher of 2"
    ),
    "wrong number of start layers": BadInput(
        f"{DISTILL} --student.start.layers 7", "start.layers 7 must name 1 layers"
    ),
    "unknown start layers": BadInput(
        f"{DISTILL} --student.start.layers every", "start.layers is 'every'"
    ),
    "svd of equal widths": BadInput(
        f"{DISTILL} --student.start.shrink svd",
        "start.shrink svd is for a student narrower than its teacher",
    ),
    "more positions than the teacher": BadInput(
        f"{DISTILL} --student.max-positions 64", "max_positions 64 exceeds the 16"
    ),
    "max length above the positions of the teacher": BadInput(
        f"{DISTILL} --corpus.max-length 32", "corpus.max_length 32 exceeds the 16 positions"
    ),
    "relation heads that do not divide the width": BadInput(
        DISTILL_MINE,
        "3 relation heads do not divide",
        write_config("replace(taught, losses={'r': Relation(heads=3)})"),
    ),
    "loss of an unknown ensemble teacher": BadInput(
        DISTILL_MINE,
        "loss n compares with teacher 2, counted from 0, but the experiment has 1",
        write_config("replace(taught, losses={'n': Named(name='n', teacher=2)})"),
    ),
    "cache of more tokens than the vocabulary": BadInput(
        f"{DISTILL} --teacher.cache-top-k 5000", "the vocabulary has 64 tokens; use at most 64"
    ),
    "cache with a batch scope": BadInput(
        f"{DISTILL} --teacher.cache-top-k 5 --task.scope batch", "task.scope is batch; use row"
    ),
    "cache below 0": BadInput(f"{DISTILL} --teacher.cache-top-k -1", "teacher.cache_top_k is -1"),
    "cache with seeds": BadInput(
        f"{DISTILL} --teacher.cache-top-k 5 --seeds 1 2", "order of one seed"
    ),
    "cache with a temperature schedule": BadInput(
        f"{DISTILL} --teacher.cache-top-k 5 --losses.vocab.temperature 4:1:9", "one temperature"
    ),
    "start path does not exist": BadInput(
        f"{TRAIN} --student.start.path teacher2", "there is no directory teacher2"
    ),
    "svd for another family": BadInput(
        f"{DISTILL} --student.family distilbert --student.start.shrink svd", "svd"
    ),
}


@pytest.mark.parametrize("bad", BAD_INPUTS.values(), ids=BAD_INPUTS)
def test_is_refused(bad, folder):
    check_refused(bad, folder, run_in_process)

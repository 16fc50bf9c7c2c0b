"""Any BERT or DistilBERT to half its layers, on any text, with the corrected field values.

    flaxdistill distill configs/distil_half.py --workdir runs/half \\
        --teacher.path google-bert/bert-base-uncased --corpus.sources.0.path 'text/*.jsonl'

``teacher.path`` is a directory or a Hub id of a masked-LM checkpoint; its tokenizer is used. Text may be txt, jsonl, csv
or parquet, plain or .gz, or ``hf:NAME``; docstrings, the default, need no files. One GPU or a few TPU chips; a smaller
device wants ``--accumulate 4``, which changes nothing but memory.
"""

from flaxdistill.data.corpus import Corpus
from flaxdistill.data.sources import Source
from flaxdistill.experiment.config import Experiment, Student, Teacher
from flaxdistill.losses.cosine import HiddenCosine
from flaxdistill.losses.vocab import VocabKD
from flaxdistill.train.optimizer import AdamW

config = Experiment(
    teacher=Teacher(path="google-bert/bert-base-uncased"),
    student=Student(),
    corpus=Corpus(sources=(Source(path="docstrings"),), max_length=128),
    losses={"vocab": VocabKD(), "cosine": HiddenCosine()},
    optim=AdamW(learning_rate=5e-4, clip=1.0),
    batch_size=256,
    steps=10_000,
    eval_every=1000,
    save_every=500,
)

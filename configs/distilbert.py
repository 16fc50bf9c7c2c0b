"""DistilBERT as published (Sanh et al., 2019): BERT-base to 6 layers, triple loss, for one host of 8 GPUs or TPU chips.

    flaxdistill distill configs/distilbert.py --workdir runs/distilbert

Reads English Wikipedia from the Hub (``pip install 'flaxdistill[hf]'``); the paper added the Toronto Book Corpus, which is
no longer distributed: add your own copy as a second ``Source(path="books/*.txt")`` below. Three passes over both were 10
to 13 billion tokens, 720 hours of a V100. At the 664 MFLOP a token of this recipe that is 6 to 8 hours of an H100 at 30 % of
its peak, or 31 to 41 chip-hours of TPU v5e; neither was run for this file.

The field values are those of the published code, with its quirks: masks are counted over the whole batch, frequent words are
masked less, a random word may be a special token, the MLM transform and token types are not copied. What differs: means
are exact over the update, not means of micro-batch means, and blocks are packed, not padded.
"""

from flaxdistill.data.corpus import Corpus
from flaxdistill.data.sources import Source
from flaxdistill.experiment.config import Experiment, Student, Teacher
from flaxdistill.losses.cosine import HiddenCosine
from flaxdistill.losses.schedule import constant
from flaxdistill.losses.vocab import VocabKD
from flaxdistill.models.student_init import Start
from flaxdistill.tasks.mlm import MLM
from flaxdistill.train.optimizer import AdamW

config = Experiment(
    teacher=Teacher(path="google-bert/bert-base-uncased"),
    student=Student(
        family="distilbert",
        num_layers=6,
        start=Start(layers="distilbert", mlm_transform=False, token_types="drop"),
    ),
    corpus=Corpus(
        sources=(Source(path="hf:wikimedia/wikipedia:20231101.en"),),
        held_out=0.001,
        max_length=512,
    ),
    task=MLM(rate=0.15, scope="batch", smoothing=0.7, random_specials=True),
    losses={
        "vocab": VocabKD(
            kl=constant(5.0), mlm=constant(2.0), temperature=constant(2.0), tokens="real"
        ),
        "cosine": HiddenCosine(weight=constant(1.0)),
    },
    optim=AdamW(
        learning_rate=5e-4,
        b1=0.9,
        b2=0.98,
        eps=1e-6,
        weight_decay=0.0,
        warmup=0.05,
        decay="linear",
        clip=5.0,
    ),
    batch_size=4096,
    accumulate=16,
    steps=6000,
    log_every=20,
    eval_every=500,
    save_every=250,
)

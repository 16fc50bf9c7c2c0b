"""MiniLM (Wang et al., 2020): the last layer's attention distributions and value relations of BERT-base, into 6 x 384.

    flaxdistill distill configs/minilm.py --workdir runs/minilm

Reads English Wikipedia from the Hub (``pip install 'flaxdistill[hf]'``); the paper added the Toronto Book Corpus.
400,000 steps of 256 rows of 512 tokens, as published for this size, are 52 billion tokens: at 260 MFLOP a token about 13
hours of one H100 at 30 % of its peak, or 60 chip-hours of TPU v5e; not run for this file, and far fewer steps are most of
the way (``--steps 40000``). Six layers of 768 had 1,024 rows and a rate of 5e-4.

The published objective has no masked-LM term (the authors found that it hurts) and masks nothing. Head numbers must be
equal: 12 of 32 here against 12 of 64. A student of other heads is ``minilm_v2``'s.
"""

from flaxdistill.data.corpus import Corpus
from flaxdistill.data.sources import Source
from flaxdistill.experiment.config import Experiment, Student, Teacher
from flaxdistill.losses.relation import Relation
from flaxdistill.models.student_init import Start
from flaxdistill.tasks.mlm import MLM
from flaxdistill.train.optimizer import AdamW

config = Experiment(
    teacher=Teacher(path="google-bert/bert-base-uncased"),
    student=Student(
        num_layers=6,
        hidden_size=384,
        num_heads=12,
        intermediate_size=1536,
        start=Start(layers="random"),
    ),
    corpus=Corpus(
        sources=(Source(path="hf:wikimedia/wikipedia:20231101.en"),), held_out=0.001, max_length=512
    ),
    task=MLM(rate=0.0),
    losses={"relation": Relation(relations="qk,vv")},
    optim=AdamW(learning_rate=3e-4, b2=0.999, warmup=4000, weight_decay=0.01, clip=1.0),
    batch_size=256,
    steps=400_000,
    log_every=50,
    eval_every=5000,
    save_every=1000,
)

"""MiniLM v2 (Wang et al., 2021): relations among queries, among keys and among values, cut into 48 heads, into 6 x 384.

    flaxdistill distill configs/minilm_v2.py --workdir runs/minilm-v2

A large teacher gives an upper layer instead of its last, and 64 relation heads: ``--teacher.path
google-bert/bert-large-uncased --losses.relation.layers 6:21 --losses.relation.heads 64``. Reads English Wikipedia from
the Hub (``pip install 'flaxdistill[hf]'``). 400,000 steps of 1,024 rows of 128 tokens are 52 billion tokens: at 235
MFLOP a token about 11 hours of one H100 at 30 % of its peak, or 60 chip-hours of TPU v5e; not run for this file.

The feed-forward width is four times the student's own, as in the paper; public implementations keep the teacher's
3,072.
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
        sources=(Source(path="hf:wikimedia/wikipedia:20231101.en"),), held_out=0.001, max_length=128
    ),
    task=MLM(rate=0.0),
    losses={"relation": Relation(relations="qq,kk,vv", heads=48)},
    optim=AdamW(learning_rate=6e-4, b2=0.98, warmup=4000, weight_decay=0.01, clip=1.0),
    batch_size=1024,
    steps=400_000,
    log_every=50,
    eval_every=5000,
    save_every=1000,
)

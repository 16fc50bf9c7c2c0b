"""TinyBERT's general stage (Jiao et al., 2020): attention scores, embeddings and hidden states of BERT-base, no labels.

    flaxdistill distill configs/tinybert_general.py --workdir runs/tinybert4

Four layers of 312. Six of 768 are ``--student.num-layers 6 --student.hidden-size 768 --student.intermediate-size 3072
--losses.hidden.layers 0:0,1:2,2:4,3:6,4:8,5:10,6:12 --losses.hidden.project no``. Reads English Wikipedia from the Hub
(``pip install 'flaxdistill[hf]'``); three passes at 128 tokens and 256 rows a step are about 300,000 steps. At 195
MFLOP a token, most of them the teacher's, that is 2 hours of an H100 at 30 % of its peak, or 9 chip-hours of TPU v5e;
not run for this file.

What differs from the published code: means are over real tokens, where it divided by padding too (``tokens`` all gives
that back), the teacher has no dropout, and blocks are packed. Nothing is masked, as there. The rate is that of its task
stage.
"""

from flaxdistill.data.corpus import Corpus
from flaxdistill.data.sources import Source
from flaxdistill.experiment.config import Experiment, Student, Teacher
from flaxdistill.losses.hidden import HiddenMSE
from flaxdistill.losses.relation import AttentionScores
from flaxdistill.models.student_init import Start
from flaxdistill.tasks.mlm import MLM
from flaxdistill.train.optimizer import AdamW

config = Experiment(
    teacher=Teacher(path="google-bert/bert-base-uncased"),
    student=Student(
        num_layers=4,
        hidden_size=312,
        num_heads=12,
        intermediate_size=1200,
        start=Start(layers="random"),
    ),
    corpus=Corpus(
        sources=(Source(path="hf:wikimedia/wikipedia:20231101.en"),), held_out=0.001, max_length=128
    ),
    task=MLM(rate=0.0),
    losses={
        "scores": AttentionScores(layers="uniform"),
        "hidden": HiddenMSE(layers="0:0,1:3,2:6,3:9,4:12", project="shared"),
    },
    optim=AdamW(learning_rate=5e-5, b2=0.999, warmup=0.1, weight_decay=0.01, clip=1.0),
    batch_size=256,
    steps=300_000,
    log_every=50,
    eval_every=5000,
    save_every=1000,
)

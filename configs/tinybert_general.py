"""TinyBERT's general stage (Jiao et al., 2020): attention scores and hidden states, no labels.

    flaxdistill distill tinybert_general --workdir runs/tinybert4

BERT-base to four layers of 312. For six of 768: ``--student.num-layers 6 --student.hidden-size 768
--student.intermediate-size 3072 --losses.hidden.layers 0:0,1:2,2:4,3:6,4:8,5:10,6:12
--losses.hidden.project no``. Reads English Wikipedia from the Hub (``pip install
'flaxdistill[hf]'``). Three epochs at 128 tokens and 256 rows per step are about 300,000 steps. At
195 MFLOP per token, most of them the teacher's, this is an estimated 2 hours of an H100 at 30 % of
its peak, or 9 chip-hours of TPU v5e. It was not run at this size.

Differences from the published code: means are over real tokens, where it divides by padding too
(``tokens`` all restores that); the teacher has no dropout; blocks are packed. As there, nothing is
masked. The learning rate is that of the paper's task stage.
"""

from flaxdistill import (
    MLM,
    AdamW,
    AttentionScores,
    Corpus,
    Experiment,
    HiddenMSE,
    Source,
    Start,
    Student,
    Teacher,
)

config = Experiment(
    teacher=Teacher("google-bert/bert-base-uncased"),
    student=Student(
        num_layers=4,
        hidden_size=312,
        num_heads=12,
        intermediate_size=1200,
        start=Start(layers="random"),
    ),
    corpus=Corpus(
        sources=(Source("hf:wikimedia/wikipedia:20231101.en"),), held_out=0.001, max_length=128
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

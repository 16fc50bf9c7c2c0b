"""MiniLM v2 (Wang et al., 2021): BERT-base to 6 x 384 by query, key and value relations.

    flaxdistill distill minilm_v2 --workdir runs/minilm-v2

With a large teacher, use an upper layer instead of the last, and 64 relation heads:
``--teacher.path google-bert/bert-large-uncased --losses.relation.layers 6:21
--losses.relation.heads 64``. Reads English Wikipedia from the Hub (``pip install
'flaxdistill[hf]'``). 400,000 steps of 1,024 rows of 128 tokens are 52 billion tokens: at 235 MFLOP
per token an estimated 11 hours of one H100 at 30 % of its peak, or 60 chip-hours of TPU v5e. It was
not run at this size.

The feed-forward width is four times the student's width, as in the paper. Public implementations
use the teacher's 3,072.
"""

from flaxdistill import MLM, AdamW, Corpus, Experiment, Relation, Source, Start, Student, Teacher

config = Experiment(
    teacher=Teacher("google-bert/bert-base-uncased"),
    student=Student(
        num_layers=6,
        hidden_size=384,
        num_heads=12,
        intermediate_size=1536,
        start=Start(layers="random"),
    ),
    corpus=Corpus(
        sources=(Source("hf:wikimedia/wikipedia:20231101.en"),), held_out=0.001, max_length=128
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

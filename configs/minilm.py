"""MiniLM (Wang et al., 2020): BERT-base to 6 x 384 by attention and value relations.

    flaxdistill distill minilm --workdir runs/minilm

Reads English Wikipedia from the Hub (``pip install 'flaxdistill[hf]'``); the paper also used the
Toronto Book Corpus. The published schedule for this size, 400,000 steps of 256 rows of 512 tokens,
is 52 billion tokens: at 260 MFLOP per token an estimated 13 hours of one H100 at 30 % of its peak,
or 60 chip-hours of TPU v5e. It was not run at this size. Far fewer steps give most of the gain
(``--steps 40000``). Six layers of 768 used 1,024 rows and a learning rate of 5e-4.

The published objective has no masked-LM term (the authors found that it hurts) and masks nothing.
Teacher and student need the same number of heads: here 12 of width 32 and 12 of width 64. For other
head counts use ``minilm_v2``.
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
        sources=(Source("hf:wikimedia/wikipedia:20231101.en"),), held_out=0.001, max_length=512
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

"""DistilBERT as published (Sanh et al., 2019): BERT-base to 6 layers with the triple loss.

    flaxdistill distill distilbert --workdir runs/distilbert

For one host of 8 GPUs or TPU chips. Reads English Wikipedia from the Hub (``pip install
'flaxdistill[hf]'``). The paper also used the Toronto Book Corpus, which is no longer distributed:
add your own copy as a second ``Source("books/*.txt")``. Three epochs over both are 10 to 13 billion
tokens (720 hours of a V100 in the paper). At 664 MFLOP per token this is an estimated 6 to 8 hours
of an H100 at 30 % of its peak, or 31 to 41 chip-hours of TPU v5e. It was not run at this size.

The settings are those of the published code: masks are counted over the whole batch, frequent
tokens are masked less, a random token may be a special token, and the MLM transform and token types
are not copied. Two things differ: means are exact over the update, not means of micro-batch means,
and blocks are packed, not padded.
"""

from flaxdistill import (
    MLM,
    AdamW,
    Corpus,
    Experiment,
    HiddenCosine,
    Source,
    Start,
    Student,
    Teacher,
    VocabKD,
)

config = Experiment(
    teacher=Teacher("google-bert/bert-base-uncased"),
    student=Student(
        family="distilbert",
        num_layers=6,
        start=Start(layers="distilbert", mlm_transform=False, token_types="drop"),
    ),
    corpus=Corpus(
        sources=(Source("hf:wikimedia/wikipedia:20231101.en"),),
        held_out=0.001,
        max_length=512,
    ),
    task=MLM(rate=0.15, scope="batch", smoothing=0.7, random_specials=True),
    losses={
        "vocab": VocabKD(kl=5.0, mlm=2.0, temperature=2.0, tokens="real"),
        "cosine": HiddenCosine(weight=1.0),
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

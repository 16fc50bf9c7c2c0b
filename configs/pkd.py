"""Patient knowledge distillation (Sun et al., 2019): KL, masked LM and every second layer's [CLS].

    flaxdistill distill pkd --workdir runs/pkd

BERT-base to its first six layers, as the paper initializes. The paper has a task's labels; here the
labels are masked tokens, so that the result can be fine-tuned on any task. PKD-Last is
``--losses.cosine.layers 1:7,2:8,3:9,4:10,5:11``. The patient term is the squared distance of
normalized vectors, twice 1 - cosine: a weight of 20 is a beta of 10 for each layer. Reads English
Wikipedia from the Hub (``pip install 'flaxdistill[hf]'``). 20,000 steps of 256 rows of 128 tokens
are 0.7 billion tokens: at 640 MFLOP per token an estimated half hour of one H100 at 30 % of its
peak. It was not run at this size.
"""

from flaxdistill import (
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
    student=Student(num_layers=6, start=Start(layers="0,1,2,3,4,5")),
    corpus=Corpus(
        sources=(Source("hf:wikimedia/wikipedia:20231101.en"),), held_out=0.001, max_length=128
    ),
    losses={
        "vocab": VocabKD(kl=0.7, mlm=0.3, temperature=10.0),
        "cosine": HiddenCosine(weight=20.0, layers="skip", tokens="first"),
    },
    optim=AdamW(learning_rate=5e-5, b2=0.999, warmup=0.1, weight_decay=0.01, clip=1.0),
    batch_size=256,
    steps=20_000,
    eval_every=1000,
    save_every=500,
)

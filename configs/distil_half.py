"""Distill any BERT or DistilBERT into half its layers, on any text.

    flaxdistill distill distil_half --workdir runs/half \\
        --teacher.path google-bert/bert-base-uncased --corpus.sources.0.path 'text/*.jsonl'

``teacher.path`` is a folder or a Hub id of a masked-LM checkpoint. Its tokenizer is used. Text can
be txt, jsonl, csv or parquet, plain or .gz, or ``hf:NAME``. The default, docstrings, needs no
files. The batch fits one GPU or a few TPU chips. On a smaller device add ``--accumulate 4``: it
changes only the memory.
"""

from flaxdistill import AdamW, Corpus, Experiment, HiddenCosine, Source, Student, Teacher, VocabKD

config = Experiment(
    teacher=Teacher("google-bert/bert-base-uncased"),
    student=Student(),
    corpus=Corpus(sources=(Source("docstrings"),), max_length=128),
    losses={"vocab": VocabKD(), "cosine": HiddenCosine()},
    optim=AdamW(learning_rate=5e-4, clip=1.0),
    batch_size=256,
    steps=10_000,
    eval_every=1000,
    save_every=500,
)

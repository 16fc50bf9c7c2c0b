"""TinyBERT's task stages (Jiao et al., 2020): hidden states, then soft labels.

    flaxdistill distill tinybert_general --workdir runs/tinybert4
    flaxdistill augment train.tsv augmented --model google-bert/bert-base-uncased \\
        --glove glove.6B.300d.txt --column sentence --label label
    flaxdistill distill tinybert_task --workdir runs/tinybert_sst2

``teacher`` is fine-tuned on ``train.tsv`` and evaluated on ``dev.tsv``. ``intermediate`` matches
embeddings, hidden states and attention scores on the augmented rows, starting from the student of
the general stage. ``prediction`` continues from it with the teacher's soft labels at T = 1. Columns
are those of GLUE's SST-2. The paper trains for 20 epochs on augmented rows (10 for MNLI, QQP and
QNLI, 50 for CoLA) at batch size 32 and 5e-5, then 3 epochs at 3e-5: set the steps by the number of
your rows. It was not run at this size.

Differences from the published code: means are over real tokens (``tokens`` all gives padding its
weight back); the soft cross-entropy is not divided by the number of classes (a weight of 1/2 for
two classes restores that); the teacher has no dropout.

Differences in ``augment``: a replacement is another word of letters, of any script (there any
likely token, including the word itself). The rest of a text is unchanged (there it is tokenized and
joined with spaces). While the second text of a pair varies, the first is the original (there its
last variant). A long text and its masked copy each get half of ``--length`` (there the copy goes
first, with 512 for both). A word without a vector is looked up in lower case, and its neighbours
are not capitalized. Equal rows are written once. The published ``--variants`` are 20 for SST-2 and
QNLI, 10 for MNLI and QQP, 30 for the others.
"""

from dataclasses import replace

from flaxdistill import (
    AdamW,
    AttentionScores,
    Classification,
    Corpus,
    Experiment,
    HiddenMSE,
    Labels,
    SoftLabels,
    Source,
    Stage,
    Start,
    Student,
    Teacher,
)

train = Source("train.tsv", column="sentence", label="label")
teacher = Experiment(
    student=Student(start=Start(path="google-bert/bert-base-uncased")),
    corpus=Corpus(
        sources=(train,), held_out_sources=(replace(train, path="dev.tsv"),), max_length=64
    ),
    task=Classification(),
    losses={"labels": Labels()},
    optim=AdamW(learning_rate=3e-5, b2=0.999, weight_decay=0.01, warmup=0.1, clip=1.0),
    batch_size=32,
    steps=6000,
    select="best",
)
intermediate = replace(
    teacher,
    teacher=Teacher(Stage("teacher")),
    student=Student(start=Start(path="runs/tinybert4"), num_layers=4),
    corpus=replace(teacher.corpus, sources=(replace(train, path="augmented"),)),
    losses={
        "scores": AttentionScores(layers="uniform"),
        "hidden": HiddenMSE(layers="0:0,1:3,2:6,3:9,4:12", project="shared"),
    },
    optim=AdamW(
        learning_rate=5e-5, b2=0.999, weight_decay=0.01, warmup=0.1, decay="constant", clip=1.0
    ),
    steps=200_000,
    eval_every=20_000,
    select="last",
)
prediction = replace(
    intermediate,
    student=Student(start=Start(path=Stage("intermediate")), num_layers=4),
    losses={"soft": SoftLabels(temperature=1.0, divergence="ce")},
    optim=teacher.optim,
    steps=30_000,
    eval_every=2000,
    select="best",
)

config = {"teacher": teacher, "intermediate": intermediate, "prediction": prediction}

"""TinyBERT's task stages (Jiao et al., 2020) on a labelled file and its variants: states first, then answers.

    flaxdistill distill tinybert_general --workdir runs/tinybert4
    flaxdistill augment train.tsv augmented --model google-bert/bert-base-uncased --glove glove.6B.300d.txt \\
        --column sentence --label label
    flaxdistill distill tinybert_task --workdir runs/tinybert_sst2

``teacher`` is fine-tuned on ``train.tsv`` and judged on ``dev.tsv``; ``intermediate`` matches embeddings, hidden states and
attention scores on the variants, from the student of the general stage; ``prediction`` goes on from it with the teacher's
answers alone, at T = 1. Columns are those of GLUE's SST-2. The paper takes 20 passes over the variants (10
for MNLI, QQP and QNLI, 50 for CoLA) at batch 32 and 5e-5, then 3 passes at 3e-5: set the steps by your rows. Not run at
this size.

What differs from the published code: means are over real tokens (``tokens`` all gives padding its weight back), the soft
cross-entropy is not divided by the number of classes (a weight of 1/2 for two gives that back), and the teacher has no
dropout.

What differs in `augment`: another word of letters, of any script, takes a word's place (there any likely token, the word
itself too); the rest of a text stays as written (there it is cut into tokens that are joined by blanks); while the second
text of a pair varies, the first is the source's (there its last variant); of a long text and its masked copy each gets half
of `--length` (there the copy goes first, with 512 for both); a word without a vector is looked for in lower case, and its
neighbours are not capitalised as it is; equal rows are written once. The published `--variants` are 20 as here for SST-2 and
QNLI, 10 for MNLI and QQP, 30 for the others.
"""

from dataclasses import replace

from flaxdistill.data.corpus import Corpus
from flaxdistill.data.sources import Source
from flaxdistill.experiment.config import Experiment, Stage, Student, Teacher
from flaxdistill.losses.answers import Labels, SoftLabels
from flaxdistill.losses.hidden import HiddenMSE
from flaxdistill.losses.relation import AttentionScores
from flaxdistill.losses.schedule import constant
from flaxdistill.models.student_init import Start
from flaxdistill.tasks.text_classification import Classification
from flaxdistill.train.optimizer import AdamW

train = Source(path="train.tsv", column="sentence", label="label")
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
    teacher=Teacher(path=Stage("teacher")),
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
    losses={"soft": SoftLabels(temperature=constant(1.0), divergence="ce")},
    optim=teacher.optim,
    steps=30_000,
    eval_every=2000,
    select="best",
)

config = {"teacher": teacher, "intermediate": intermediate, "prediction": prediction}

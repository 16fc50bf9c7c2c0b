"""Patient knowledge distillation (Sun et al., 2019): every second layer's [CLS] beside the triple loss's KL and masked LM.

    flaxdistill distill configs/pkd.py --workdir runs/pkd

BERT-base into its first six layers, as the paper starts. There the labels are a task's; here they are words, so that
the same terms serve before any task. PKD-Last is ``--losses.cosine.layers 1:7,2:8,3:9,4:10,5:11``. The patient term is
the squared distance of normalised vectors, twice 1 - cos: weight 20 is a beta of 10 for each layer. Reads English
Wikipedia from the Hub (``pip install 'flaxdistill[hf]'``); 20,000 steps of 256 rows of 128 tokens are 0.7 billion
tokens, at 640 MFLOP a token half an hour of one H100 at 30 % of its peak; not run for this file.
"""

from flaxdistill.data.corpus import Corpus
from flaxdistill.data.sources import Source
from flaxdistill.experiment.config import Experiment, Student, Teacher
from flaxdistill.losses.cosine import HiddenCosine
from flaxdistill.losses.schedule import constant
from flaxdistill.losses.vocab import VocabKD
from flaxdistill.models.student_init import Start
from flaxdistill.train.optimizer import AdamW

config = Experiment(
    teacher=Teacher(path="google-bert/bert-base-uncased"),
    student=Student(num_layers=6, start=Start(layers="0,1,2,3,4,5")),
    corpus=Corpus(
        sources=(Source(path="hf:wikimedia/wikipedia:20231101.en"),), held_out=0.001, max_length=128
    ),
    losses={
        "vocab": VocabKD(kl=constant(0.7), mlm=constant(0.3), temperature=constant(10.0)),
        "cosine": HiddenCosine(weight=constant(20.0), layers="skip", tokens="first"),
    },
    optim=AdamW(learning_rate=5e-5, b2=0.999, warmup=0.1, weight_decay=0.01, clip=1.0),
    batch_size=256,
    steps=20_000,
    eval_every=1000,
    save_every=500,
)

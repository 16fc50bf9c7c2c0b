"""Which objective for which student? Every recipe at equal tokens, for students of full and of half
width.

    flaxdistill distill benchmarks/experiments/objectives.py --workdir runs/objectives
    for run in runs/objectives/*_0; do flaxdistill eval $run --layers; done

Reads a masked-LM teacher of 6 x 384 and the Wikipedia and novel texts from ../shared. Students are
3 x 384 from three of the teacher's layers, and 3 x 192 truncated from them. Each is trained on the
same rows and masks. ``mlm`` is the control, without the teacher. Every other run adds terms to it,
so that a masked-LM head can be evaluated. ``_random`` has a random start.
"""

from dataclasses import replace

from flaxdistill.data.corpus import Corpus
from flaxdistill.data.sources import Source
from flaxdistill.experiment.config import Experiment
from flaxdistill.experiment.model_configs import Student, Teacher
from flaxdistill.losses.cosine import HiddenCosine
from flaxdistill.losses.hidden import HiddenMSE
from flaxdistill.losses.relation import AttentionScores, Relation
from flaxdistill.losses.schedule import constant
from flaxdistill.losses.vocab import MaskedLM, VocabKD
from flaxdistill.models.start import Start
from flaxdistill.train.optimizer import AdamW

TEACHER = "../shared/models/minilm-l6-mlm"
STEPS = 80
BEST = {
    "wide": ("triple", "kl", "pkd"),
    "narrow": ("jsd", "kl", "triple"),
}  # of seed 0, by the held-out loss

base = Experiment(
    teacher=Teacher(path=TEACHER),
    student=Student(start=Start(path=TEACHER), dropout=0.0, attention_dropout=0.0),
    corpus=Corpus(
        sources=(
            Source(path="../shared/data/corpus/wikipedia-train.parquet"),
            Source(path="../shared/data/corpus/novels.parquet"),
        ),
        max_length=128,
        held_out=0.01,
        held_out_blocks=256,
    ),
    optim=AdamW(learning_rate=4e-4, clip=1.0),
    batch_size=16,
    steps=STEPS,
    eval_every=STEPS * 10,
    save_every=STEPS,
)
widths = {
    "wide": base.student,
    "narrow": replace(
        base.student,
        hidden_size=192,
        num_heads=12,
        intermediate_size=768,
        start=Start(path=TEACHER, shrink="truncate"),
    ),
}
LAYERS = "0:0,1:2,2:4,3:6"


def recipes(width: str) -> dict:
    """Return the losses of every recipe; hidden states of a narrower student are compared through a
    projection.
    """
    mlm, project = {"mlm": MaskedLM()}, "no" if width == "wide" else "shared"
    return {
        "mlm": mlm,
        "kl": {"vocab": VocabKD(tokens="masked")},
        "ce_without_square": {"vocab": VocabKD(tokens="masked", divergence="ce", squared=False)},
        "jsd": {"vocab": VocabKD(tokens="masked", divergence="jsd", kl=constant(20.0))},
        "logit_mse": {"vocab": VocabKD(tokens="masked", divergence="mse", kl=constant(1e-4))},
        "triple": {"vocab": VocabKD(tokens="masked"), "cosine": HiddenCosine(project=project)},
        "cosine_of_layers": mlm | {"cosine": HiddenCosine(layers=LAYERS, project=project)},
        "pkd": {
            "vocab": VocabKD(tokens="masked"),
            "cosine": HiddenCosine(layers="skip", tokens="first", project=project),
        },
        "tinybert": mlm
        | {"scores": AttentionScores(), "hidden": HiddenMSE(layers=LAYERS, project=project)},
        "minilm": mlm | {"relation": Relation(relations="qk,vv")},
        "minilm_v2": mlm | {"relation": Relation(relations="qq,kk,vv", heads=48)},
    }


config = {}
for seed in range(3):  # every recipe once, then the control and the best again
    for width, student in widths.items():
        for name, losses in recipes(width).items():
            alone = {"teacher": None, "reference": TEACHER} if name == "mlm" else {}
            run = replace(base, student=student, losses=losses, seed=seed, **alone)
            if seed == 0 or name in ("mlm", *BEST[width]):
                config[f"{width}_{name}_{seed}"] = run
            if seed == 0 and name in ("mlm", "triple"):
                start = replace(student, start=replace(student.start, layers="random"))
                config[f"{width}_{name}_random_0"] = replace(run, student=start)

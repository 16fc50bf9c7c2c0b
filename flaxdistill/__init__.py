"""flaxdistill: distil BERT-family teachers into small, fast students with JAX.

`load` gives a model to ask, `distill` runs experiments, and the other names are what an experiment is written with. More
losses stand in `flaxdistill.losses`. Importing this package imports neither jax nor numpy: a name is fetched from its own
module when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from flaxdistill.version import __version__ as __version__

if TYPE_CHECKING:
    from flaxdistill.data.corpus import Corpus as Corpus
    from flaxdistill.data.sources import Source as Source
    from flaxdistill.errors import UserError as UserError
    from flaxdistill.experiment import Experiment as Experiment
    from flaxdistill.experiment import Stage as Stage
    from flaxdistill.experiment import Student as Student
    from flaxdistill.experiment import Teacher as Teacher
    from flaxdistill.losses.answers import Labels as Labels
    from flaxdistill.losses.answers import SoftLabels as SoftLabels
    from flaxdistill.losses.cosine import Cosine as Cosine
    from flaxdistill.losses.vocab import MaskedLM as MaskedLM
    from flaxdistill.losses.vocab import Vocab as Vocab
    from flaxdistill.model import Model as Model
    from flaxdistill.model import load as load
    from flaxdistill.optim import AdamW as AdamW
    from flaxdistill.run import Run as Run
    from flaxdistill.run import distill as distill
    from flaxdistill.schedule import Schedule as Schedule
    from flaxdistill.student import Start as Start
    from flaxdistill.tasks.mlm import MLM as MLM
    from flaxdistill.tasks.sequence import Classification as Classification
    from flaxdistill.tasks.sequence import Regression as Regression
    from flaxdistill.tasks.span import Answering as Answering
    from flaxdistill.tasks.tokens import Tagging as Tagging

_HOMES = {
    "distill": "run",
    "load": "model",
    "Run": "run",
    "Model": "model",
    "Experiment": "experiment",
    "Teacher": "experiment",
    "Student": "experiment",
    "Start": "student",
    "Stage": "experiment",
    "Corpus": "data.corpus",
    "Source": "data.sources",
    "AdamW": "optim",
    "Schedule": "schedule",
    "MLM": "tasks.mlm",
    "Classification": "tasks.sequence",
    "Regression": "tasks.sequence",
    "Tagging": "tasks.tokens",
    "Answering": "tasks.span",
    "MaskedLM": "losses.vocab",
    "Vocab": "losses.vocab",
    "Cosine": "losses.cosine",
    "Labels": "losses.answers",
    "SoftLabels": "losses.answers",
    "UserError": "errors",
}
"""Where each name lives, in the order of the API pages; a type checker reads the imports above."""

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value  # asked for once
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})

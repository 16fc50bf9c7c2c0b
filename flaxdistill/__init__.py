"""flaxdistill: distill BERT-family teachers into small, fast students with JAX.

`load` returns a model for inference, and `distill` runs experiments. The other names describe an
experiment; `flaxdistill.losses` has more losses. Importing this package imports neither jax nor
numpy: each name is imported from its module on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from flaxdistill.version import __version__ as __version__

if TYPE_CHECKING:
    from flaxdistill.api.model import Model as Model
    from flaxdistill.api.model import load as load
    from flaxdistill.api.run import Run as Run
    from flaxdistill.api.run import distill as distill
    from flaxdistill.data.corpus import Corpus as Corpus
    from flaxdistill.data.sources import Source as Source
    from flaxdistill.errors import UserError as UserError
    from flaxdistill.experiment.config import Experiment as Experiment
    from flaxdistill.experiment.model_configs import Stage as Stage
    from flaxdistill.experiment.model_configs import Student as Student
    from flaxdistill.experiment.model_configs import Teacher as Teacher
    from flaxdistill.losses.cosine import HiddenCosine as HiddenCosine
    from flaxdistill.losses.hidden import HiddenMSE as HiddenMSE
    from flaxdistill.losses.labels import Labels as Labels
    from flaxdistill.losses.labels import SoftLabels as SoftLabels
    from flaxdistill.losses.relation import AttentionScores as AttentionScores
    from flaxdistill.losses.relation import Relation as Relation
    from flaxdistill.losses.schedule import Schedule as Schedule
    from flaxdistill.losses.vocab import MaskedLM as MaskedLM
    from flaxdistill.losses.vocab import VocabKD as VocabKD
    from flaxdistill.models.start import Start as Start
    from flaxdistill.tasks.mlm import MLM as MLM
    from flaxdistill.tasks.question_answering import QuestionAnswering as QuestionAnswering
    from flaxdistill.tasks.text_classification import Classification as Classification
    from flaxdistill.tasks.text_classification import Regression as Regression
    from flaxdistill.tasks.token_classification import TokenClassification as TokenClassification
    from flaxdistill.train.optimizer import AdamW as AdamW

_MODULES = {
    "distill": "api.run",
    "load": "api.model",
    "Run": "api.run",
    "Model": "api.model",
    "Experiment": "experiment.config",
    "Teacher": "experiment.model_configs",
    "Student": "experiment.model_configs",
    "Start": "models.start",
    "Stage": "experiment.model_configs",
    "Corpus": "data.corpus",
    "Source": "data.sources",
    "AdamW": "train.optimizer",
    "Schedule": "losses.schedule",
    "MLM": "tasks.mlm",
    "Classification": "tasks.text_classification",
    "Regression": "tasks.text_classification",
    "TokenClassification": "tasks.token_classification",
    "QuestionAnswering": "tasks.question_answering",
    "MaskedLM": "losses.vocab",
    "VocabKD": "losses.vocab",
    "HiddenCosine": "losses.cosine",
    "HiddenMSE": "losses.hidden",
    "AttentionScores": "losses.relation",
    "Relation": "losses.relation",
    "Labels": "losses.labels",
    "SoftLabels": "losses.labels",
    "UserError": "errors",
}
"""The module of each name, in the order of the API pages. Type checkers read the imports above."""

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value  # later uses do not call __getattr__
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})

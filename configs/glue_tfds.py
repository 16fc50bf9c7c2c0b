"""GLUE as in ``glue``, but read by tensorflow_datasets from ArrayRecord files.

flaxdistill distill glue_tfds --only 'mrpc_*' --workdir runs/glue
"""

from dataclasses import replace

from flaxdistill.experiment import config_file
from flaxdistill.tasks.glue import GLUE

config = {}
for stage, experiment in config_file.load_config(config_file.PACKAGED_CONFIGS / "glue.py").items():
    name = stage.partition("_")[0]
    config[stage] = replace(experiment, corpus=GLUE[name].corpus(name, library="tfds"))

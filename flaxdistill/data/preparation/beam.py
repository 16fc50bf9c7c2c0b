"""The work on shards, done by Apache Beam: Dataflow, Flink, Spark or this process."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from pathlib import Path

from flaxdistill.data.preparation.folders import Task
from flaxdistill.errors import UserError
from flaxdistill.runtime import gcs
from flaxdistill.runtime.files import brief


def run(tasks: Sequence[Task], options: Sequence[str]) -> None:
    """Do all tasks in one pipeline; ``options`` are Beam's own, ``name=value`` each.

    Raises UserError for options that Beam does not have, for what a task tells, and where the runner fails.
    """
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise UserError(
            "engine.kind beam needs Apache Beam; run pip install 'flaxdistill[beam]'"
        ) from error
    folder = tasks[0].folder.parent
    # The workers may be anywhere, and what an exception says reaches us wrapped or not at all.
    refused = folder / f".refused-{uuid.uuid4().hex[:8]}"
    try:
        told = PipelineOptions([f"--{option.removeprefix('--')}" for option in options])
        known = told.get_all_options()
        for option in options:
            name = option.removeprefix("--").partition("=")[0]
            if name not in known:
                raise UserError(
                    f"engine.options has {option}, but Beam has no option {name}: write name=value, such as "
                    "runner=DirectRunner"
                )
        folder.mkdir(parents=True, exist_ok=True)
        with beam.Pipeline(options=told) as pipeline:
            _ = pipeline | beam.Create(tasks) | beam.Reshuffle() | beam.Map(_do, refused)
        gcs.refresh(folder, gcs.named(f"/{refused.name}*"))
        found = [file.read_text() for file in folder.glob(f"{refused.name}*")]
    except UserError:
        raise
    except Exception as error:  # of whatever runner it is
        raise UserError(
            f"Beam failed with engine.options {' '.join(options) or 'of its own'} ({brief(error)}); mend that, then run the "
            "same command again: it goes on from the shards that are done"
        ) from error
    finally:
        for file in folder.glob(f"{refused.name}*"):
            gcs.remove(file)
    if found:
        raise UserError(json.loads(min(found))[1])


def _do(task: Task, refused: Path) -> None:
    """Do a task, or write down why it cannot be done."""
    try:
        task.do()
    except UserError as error:
        file = refused.with_name(f"{refused.name}-{task.folder.name}")
        file.write_text(json.dumps([task.folder.name, str(error)]))
        gcs.send(file)

"""The work on shards, done by Apache Beam: Dataflow, Flink, Spark or this process."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence

from flaxdistill.data.filling import Task
from flaxdistill.errors import UserError
from flaxdistill.files import brief


def run(tasks: Sequence[Task], options: Sequence[str]) -> None:
    """Do all tasks in one pipeline; ``options`` are Beam's own, ``name=value`` each.

    Raises UserError for options that Beam does not have, for what a task tells, and where the runner fails.
    """
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise UserError("engine.kind beam needs Apache Beam; run pip install 'flaxdistill[beam]'") from error
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
            sentences = pipeline | beam.Create(tasks) | beam.Reshuffle() | beam.FlatMap(_sentences)
            _ = sentences | beam.io.WriteToText(str(refused))
        found = [line for file in folder.glob(f"{refused.name}*") for line in file.read_text().splitlines()]
    except UserError:
        raise
    except Exception as error:  # of whatever runner it is
        raise UserError(
            f"Beam failed with engine.options {' '.join(options) or 'of its own'} ({brief(error)}); mend that, then run the "
            "same command again: it goes on from the shards that are done"
        ) from error
    finally:
        for file in folder.glob(f"{refused.name}*"):
            file.unlink(missing_ok=True)
    if found:
        raise UserError(json.loads(min(found))[1])


def _sentences(task: Task) -> Iterator[str]:
    """Do a task; yields what there is to be told of it."""
    try:
        task.do()
    except UserError as error:
        yield json.dumps([task.folder.name, str(error)])

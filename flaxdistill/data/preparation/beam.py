"""Preparation tasks run by Apache Beam: on Dataflow, Flink, Spark or in this process."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from pathlib import Path

from flaxdistill.data.preparation.folders import PreparationTask
from flaxdistill.errors import UserError
from flaxdistill.runtime import gcs
from flaxdistill.runtime.files import error_summary


def run_pipeline(tasks: Sequence[PreparationTask], options: Sequence[str]) -> None:
    """Run all tasks in one pipeline; ``options`` are Beam's, ``name=value`` each.

    Raises UserError for unknown options, for the error of a task, and if the runner fails.
    """
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise UserError(
            "engine.kind beam needs Apache Beam; run pip install 'flaxdistill[beam]'"
        ) from error
    folder = tasks[0].folder.parent
    # Workers may run anywhere, and exceptions arrive wrapped or not at all, so errors are files.
    error_path = folder / f".refused-{uuid.uuid4().hex[:8]}"
    try:
        pipeline_options = PipelineOptions([f"--{option.removeprefix('--')}" for option in options])
        known = pipeline_options.get_all_options()
        for option in options:
            name = option.removeprefix("--").partition("=")[0]
            if name not in known:
                raise UserError(
                    f"engine.options has {option}, but Beam has no option {name}: write "
                    "name=value, such as runner=DirectRunner"
                )
        folder.mkdir(parents=True, exist_ok=True)
        with beam.Pipeline(options=pipeline_options) as pipeline:
            _ = pipeline | beam.Create(tasks) | beam.Reshuffle() | beam.Map(_run_task, error_path)
        gcs.refresh(folder, gcs.name_filter(f"/{error_path.name}*"))
        errors = [file.read_text() for file in folder.glob(f"{error_path.name}*")]
    except UserError:
        raise
    except Exception as error:  # each runner has its own exceptions
        raise UserError(
            f"Beam failed with engine.options {' '.join(options) or '(none)'} "
            f"({error_summary(error)}); correct them, then run the same command again: it resumes "
            "from the shards that are done"
        ) from error
    finally:
        for file in folder.glob(f"{error_path.name}*"):
            gcs.remove(file)
    if errors:
        raise UserError(json.loads(min(errors))[1])


def _run_task(task: PreparationTask, error_path: Path) -> None:
    """Run a task, or write its UserError to a file."""
    try:
        task.run()
    except UserError as error:
        file = error_path.with_name(f"{error_path.name}-{task.folder.name}")
        file.write_text(json.dumps([task.folder.name, str(error)]))
        gcs.upload(file)

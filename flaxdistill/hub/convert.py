"""Conversion between a Hugging Face directory and a converted one."""

from __future__ import annotations

from pathlib import Path

from flaxdistill.hub.checkpoint import Checkpoint, is_converted, read_model, write_model
from flaxdistill.hub.tokenizer_files import copy_tokenizer
from flaxdistill.runtime.class_json import to_json
from flaxdistill.runtime.files import (
    atomic_directory,
    check_checkpoint_path,
    error_summary,
    hash_files,
    require_empty,
    write_json,
)


def convert(source: str, out: Path) -> str:
    """Convert a Hugging Face directory or Hub model to a converted directory, or back.

    ``source`` determines the direction. Values, dtypes and tokenizer files are preserved. A
    converted directory holds model.json, an orbax checkpoint in params/ and the tokenizer files.
    Returns a one-line summary; raises UserError if ``out`` is not empty or ``source`` is no model.
    """
    require_empty(out)
    check_checkpoint_path(out)
    checkpoint = read_model(source)
    config, family = checkpoint.config, checkpoint.hub_family()
    summary = f"{family.model_type}, {config.num_layers} layers of {config.hidden_size}"
    if is_converted(checkpoint.directory):
        write_model(
            out,
            family=family,
            config=config,
            params=checkpoint.params,
            tokenizer=checkpoint.directory,
        )
        return f"{source} -> {out}: Hugging Face directory ({summary})"
    _write_converted(out, checkpoint)
    note = f"; {checkpoint.note}" if checkpoint.note else ""
    return f"{source} -> {out}: converted directory ({summary}{note})"


def _write_converted(directory: Path, checkpoint: Checkpoint) -> None:
    import orbax.checkpoint

    fields = {
        "format": 2,
        "family": checkpoint.hub_family().model_type,
        "config": to_json(checkpoint.config),
        "digest": checkpoint.digest,
    }
    with atomic_directory(directory) as folder:
        try:
            with orbax.checkpoint.StandardCheckpointer() as checkpointer:
                checkpointer.save(folder / "params", checkpoint.params)
        except ValueError as error:
            # tensorstore raises ValueError if the disk is full.
            raise OSError(error_summary(error)) from error
        write_json(folder / "model.json", fields | {"files": hash_files(folder / "params")})
        copy_tokenizer(checkpoint.directory, folder, checkpoint.hub_family(), checkpoint.config)

"""Between a Hugging Face directory and a converted one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from flaxdistill.hub.checkpoint import Model, copy_tokenizer, is_converted, read_model, write_model
from flaxdistill.runtime.files import brief, hashes, refuse_brackets, refuse_full, whole, write_json


def convert(source: str, out: Path) -> str:
    """Turn a Hugging Face directory or Hub model into a converted directory, or a converted one back.

    The direction follows from what ``source`` is; values, dtypes and tokenizer files are kept. A converted
    directory holds model.json, an orbax checkpoint params/ and the tokenizer. Returns one line that says what
    was done; raises UserError if ``out`` holds anything or ``source`` is neither.
    """
    refuse_full(out)
    refuse_brackets(out)
    model = read_model(source)
    what = (
        f"{model.family.model_type}, {model.config.num_layers} layers of {model.config.hidden_size}"
    )
    if is_converted(model.directory):
        write_model(
            out,
            family=model.family,
            config=model.config,
            params=model.params,
            tokenizer=model.directory,
        )
        return f"{source} -> {out}: Hugging Face directory ({what})"
    _write(out, model)
    return (
        f"{source} -> {out}: converted directory ({what}{'; ' if model.note else ''}{model.note})"
    )


def _write(directory: Path, model: Model) -> None:
    import orbax.checkpoint

    described = {
        "format": 1,
        "family": model.family.model_type,
        "config": dataclasses.asdict(model.config),
        "digest": model.digest,
    }
    with whole(directory) as new:
        try:
            with orbax.checkpoint.StandardCheckpointer() as checkpointer:
                checkpointer.save(new / "params", model.params)
        except ValueError as error:  # what tensorstore makes of a full disk
            raise OSError(brief(error)) from error
        write_json(new / "model.json", described | {"files": hashes(new / "params")})
        copy_tokenizer(model.directory, new, model.family, model.config)

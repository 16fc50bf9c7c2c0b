"""A model on disk: a Hugging Face directory, or a converted one (an orbax checkpoint)."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from flaxdistill.errors import UserError
from flaxdistill.hub import families
from flaxdistill.hub.download import resolve
from flaxdistill.hub.families.base import Family
from flaxdistill.hub.families.config_values import read_value
from flaxdistill.hub.families.heads import read_head, write_head
from flaxdistill.hub.tensor_files import DTYPES, read_tensors
from flaxdistill.hub.tokenizer_files import copy_tokenizer
from flaxdistill.models.architecture import Architecture, shapes_of
from flaxdistill.models.head import Head
from flaxdistill.param_paths import flatten
from flaxdistill.pytrees import Params
from flaxdistill.runtime.class_json import check_types, from_json, subclasses, to_json
from flaxdistill.runtime.files import (
    atomic_directory,
    error_summary,
    hash_files,
    read_json,
    write_json,
)

UNHASHED = ("dropout", "attention_dropout", "initializer_range")
"""Config fields that matter to training alone; the digest leaves them out."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A model read from disk, with numpy parameters in the dtypes of the source."""

    source: str
    """The path or Hub id that it was read from."""

    family: Family | None
    """None for an architecture that no family holds."""

    config: Architecture
    params: Params

    directory: Path
    """The directory of its tokenizer files."""

    digest: str
    """SHA-256 of the named tensors and of the config fields that the forward pass depends on.

    Two models are the same if and only if their digests are equal, whatever layout they were read
    from.
    """

    note: str
    """One line that lists the tensors left out; empty if there are none."""

    def hub_family(self) -> Family:
        """Return the family; raises UserError if there is none."""
        if self.family is None:
            raise UserError(
                f"{self.source} is a {type(self.config).__name__}, which no model family holds, so "
                "it has no Hugging Face form; evaluate it, or predict with it"
            )
        return self.family

    def input_names(self) -> tuple[str, ...]:
        """Return the names of the inputs of the model in transformers, in order."""
        types = ("token_type_ids",) if self.family and self.family.token_type_ids else ()
        return ("input_ids", "attention_mask", *types)


def read_model(path_or_id: str) -> Checkpoint:
    """Read a Hugging Face directory, a converted directory or a model of the Hub.

    Raises UserError for anything else, and for weights that are not finite.
    """
    directory = resolve(path_or_id)
    if is_converted(directory):
        family, config, params, digest = _read_converted(directory)
        return Checkpoint(path_or_id, family, config, params, directory, digest, "")
    family, config = _read_config(directory)
    tensors = read_tensors(directory, family)
    bad = sorted(name for name, value in tensors.items() if not np.isfinite(value).all())
    if bad:
        raise UserError(
            f"{directory} has NaN or infinite values in {', '.join(bad)}; choose another checkpoint"
        )
    config, params, note = family.read(config, tensors, path_or_id)
    digest = digest_of(family, config, params)
    return Checkpoint(path_or_id, family, config, params, directory, digest, note)


def describe(path_or_id: str) -> Checkpoint:
    """Read a model's config but no weights, which are not even downloaded.

    ``params`` and ``digest`` of the result are empty.
    """
    directory = resolve(path_or_id, files=("*.json",))
    return Checkpoint(path_or_id, *_read_config(directory), {}, directory, "", "")


def _read_config(directory: Path) -> tuple[Family, Architecture]:
    if is_converted(directory):
        fields = read_json(directory / "model.json")
        with _prefix_errors(directory / "model.json"):
            family = families.family(read_value(fields, "family", str))
            return family, read_architecture(fields.get("config"))
    fields = read_json(directory / "config.json")
    with _prefix_errors(directory / "config.json"):
        family = families.family_of_config(fields)
        return family, read_head(fields, family.read_config(fields), family)


def write_model(
    directory: str | Path,
    *,
    family: Family,
    config: Architecture,
    params: Params,
    tokenizer: Path | None,
    card: str = "",
    finish: Callable[[Path], None] = lambda folder: None,
) -> None:
    """Write a Hugging Face directory, atomically; transformers 4 and 5 can load it.

    Dtypes are preserved. ``tokenizer`` is a directory whose tokenizer files are copied; ``card``
    becomes README.md. ``finish`` is called with the temporary folder before it gets its final name;
    if it raises, nothing is left at ``directory``. Raises UserError if ``directory`` is not empty
    or the family cannot express the config.
    """
    import safetensors.numpy

    family.check(config)
    tensors = family.write(config, params)
    for name, value in tensors.items():
        if value.dtype.name not in DTYPES.values():
            raise ValueError(
                f"{name} has dtype {value.dtype}; supported are {', '.join(DTYPES.values())}"
            )
    dtypes = {value.dtype.name for value in tensors.values()}
    widest = "float64" if "float64" in dtypes else "float32"
    dtype = dtypes.pop() if len(dtypes) == 1 else widest
    fields = {
        **write_head(config, family),
        "model_type": family.model_type,
        **family.write_config(config),
        # transformers 5 reads the first, transformers 4 the second.
        "dtype": dtype,
        "torch_dtype": dtype,
    }
    with atomic_directory(directory) as folder:
        safetensors.numpy.save_file(
            tensors, folder / "model.safetensors", metadata={"format": "pt"}
        )
        write_json(folder / "config.json", fields)
        copy_tokenizer(tokenizer, folder, family, config)
        if card:
            (folder / "README.md").write_text(card, encoding="utf-8")
        finish(folder)


def is_converted(directory: Path) -> bool:
    """Return whether a directory is a converted one (model.json) and not a Hugging Face one.

    Raises UserError if it is both.
    """
    converted = (directory / "model.json").exists()
    if converted and (directory / "config.json").exists():
        raise UserError(
            f"{directory} holds both config.json (Hugging Face) and model.json (converted); "
            "remove the wrong one"
        )
    return converted


def digest_of(family: Family | None, config: Architecture, params: Params) -> str:
    """Compute the digest of a model: SHA-256, as hexadecimal digits.

    It covers the tensors (name, dtype, shape, bytes) and the config fields that the forward pass
    depends on.
    """
    fields = {key: value for key, value in to_json(config).items() if key not in UNHASHED}
    digest = hashlib.sha256(json.dumps([family and family.model_type, fields]).encode())
    tensors = family.write(config, params) if family else flatten(params)
    for name, tensor in sorted(tensors.items()):
        value = np.ascontiguousarray(tensor)
        digest.update(json.dumps([name, value.dtype.name, value.shape]).encode())
        digest.update(value.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _read_converted(directory: Path) -> tuple[Family, Architecture, Params, str]:
    import orbax.checkpoint

    file, folder = directory / "model.json", (directory / "params").absolute()
    fields = read_json(file)
    again = "convert the model again"
    if fields.get("format") != 2:
        raise UserError(
            f"{file} has format {fields.get('format')!r:.80} but this version reads format 2; "
            f"{again} or update flaxdistill"
        )
    family, config = _read_config(directory)
    # Before orbax opens them: its messages about damaged files are long and come from threads.
    actual, listed = hash_files(folder), fields.get("files")
    if actual != listed:
        listed = listed if isinstance(listed, dict) else {}
        different = sorted(
            name for name in set(actual) | set(listed) if actual.get(name) != listed.get(name)
        )
        raise UserError(
            f"{folder} does not match the files listed in {file.name}: see "
            f"{', '.join(different[:5])}; {again}"
        )
    try:
        with orbax.checkpoint.StandardCheckpointer() as checkpointer:
            # Shapes first, so that nothing is allocated for a file that is larger than its config.
            stored = flatten(checkpointer.metadata(folder).item_metadata.tree)
            if config.num_layers > len(stored):
                raise UserError(
                    f"{file.name} has {config.num_layers} layers but {folder} holds fewer; {again}"
                )
            shapes = {path: leaf.shape for path, leaf in flatten(shapes_of(config)).items()}
            wrong = sorted(
                path
                for path in set(stored) | set(shapes)
                if getattr(stored.get(path), "shape", None) != shapes.get(path)
            )
            if wrong:
                raise UserError(
                    f"{folder} does not match the config in {file.name}: see "
                    f"{', '.join(wrong)}; {again}"
                )
            params = checkpointer.restore(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, MemoryError) as error:
        raise UserError(
            f"{folder} is damaged or is no orbax checkpoint ({error_summary(error)}); {again}"
        ) from None
    digest = digest_of(family, config, params)
    if digest != fields.get("digest"):
        raise UserError(
            f"{folder} has digest {digest[:12]} but {file.name} has "
            f"{fields.get('digest')!s:.80}; {again}"
        )
    return family, config, params, digest


def read_architecture(fields: Any) -> Architecture:
    """Parse an architecture, as written by ``to_json``; raises UserError if it is malformed."""
    architectures = subclasses(Architecture)
    known = architectures.get(str(fields.get("class"))) if isinstance(fields, dict) else None
    if known:
        names = {field.name for field in dataclasses.fields(known)} | {"class"}
        if different := ", ".join(sorted(set(fields) ^ names)):
            raise UserError(
                f"config has missing or unknown fields: {different}; convert the model again"
            )
    config = from_json(fields, architectures | subclasses(Head), source="config")
    if not isinstance(config, Architecture):
        raise UserError("config is missing or is no architecture; convert the model again")
    check_types(config, "config")
    return config


@contextlib.contextmanager
def _prefix_errors(file: Path) -> Iterator[None]:
    """Put the name of a file in front of every UserError."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{file}: {error}") from None

"""Weights at rest: safetensors files, one or in shards, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from flaxdistill.errors import UserError
from flaxdistill.hub.families.base import Family
from flaxdistill.runtime.files import read_json

DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}
OTHER_FORMATS = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt", "tf_model.h5", "flax_model.msgpack")


def read_tensors(directory: Path, family: Family) -> dict[str, np.ndarray]:
    """Read model.safetensors or the shards that an index names, dtypes kept.

    Raises UserError for anything but safetensors, for damage, and for names that leave the directory.
    """
    single, index = directory / "model.safetensors", directory / "model.safetensors.index.json"
    if single.exists():
        return _read_file(single, family)
    if not index.exists():
        raise UserError(_no_weights(directory))
    where = read_json(index).get("weight_map")
    if not isinstance(where, dict) or not where:
        raise UserError(f"{index} has no weight_map from tensors to files; save or fetch it again")
    for file in where.values():
        # A plain name: an index that was fetched must not point anywhere else.
        if not (isinstance(file, str) and re.fullmatch(r"\w[\w.-]*\.safetensors", file)):
            raise UserError(
                f"{index} names the file {file!r:.80}; a shard is a .safetensors file beside its index"
            )
    tensors: dict[str, np.ndarray] = {}
    for file in sorted(set(where.values())):
        if not (directory / file).exists():
            raise UserError(
                f"{directory} has no {file}, which {index.name} names; fetch or copy it again"
            )
        shard = _read_file(directory / file, family)
        twice = sorted(set(shard) & set(tensors))
        if twice:
            raise UserError(
                f"{directory / file} holds {', '.join(twice)} that another shard holds too; save it again"
            )
        tensors |= shard
    differ = sorted(set(where) ^ set(tensors))
    if differ:
        raise UserError(
            f"{index} and its shards disagree on {', '.join(differ)}; save or fetch them again together"
        )
    return tensors


def _read_file(file: Path, family: Family) -> dict[str, np.ndarray]:
    import safetensors

    # Opening checks lengths, spans, shapes and types against each other and the file's size, and allocates
    # nothing.
    try:
        with safetensors.safe_open(file, "numpy") as opened:
            types = {name: opened.get_slice(name).get_dtype() for name in opened.keys()}  # noqa: SIM118
            odd = [
                f"{n} {t}" for n, t in types.items() if t not in DTYPES and not family.leaves_out(n)
            ]
            if odd:
                raise UserError(
                    f"{file} holds {', '.join(odd)}; only {', '.join(DTYPES)} can be read: save the "
                    "model in one of them"
                )
            return {name: opened.get_tensor(name) for name, dtype in types.items()}
    except safetensors.SafetensorError as error:
        raise UserError(
            f"{file} is damaged or no safetensors file ({error}); fetch or copy it again"
        ) from None
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from None


def _no_weights(directory: Path) -> str:
    other = sorted(file.name for pattern in OTHER_FORMATS for file in directory.glob(pattern))
    if not other:
        return (
            f"{directory} has no model.safetensors; give a model saved by transformers' "
            "save_pretrained (weights in other formats are never fetched or read)"
        )
    loads = {"tf_model.h5": ", from_tf=True", "flax_model.msgpack": ", from_flax=True"}.get(
        other[0], ""
    )
    version = "transformers 4" if loads else "transformers"
    kind = "is in another format" if loads else "is a pickle, which can run code,"
    return (
        f"{directory} has no model.safetensors, and {other[0]} {kind} and is never read; where you "
        "trust it, use "
        f"{version}: AutoModelForMaskedLM.from_pretrained({str(directory)!r}{loads}).save_pretrained(NEW, "
        "safe_serialization=True)"
    )

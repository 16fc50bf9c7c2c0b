"""Reading of weights from safetensors files, single or sharded; no other format is read."""

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
    """Read model.safetensors, or the shards that an index lists; dtypes are preserved.

    Raises UserError if there are no such files, if they are damaged, or if the index names a file
    outside of the directory.
    """
    single, index = directory / "model.safetensors", directory / "model.safetensors.index.json"
    if single.exists():
        return _read_file(single, family)
    if not index.exists():
        raise UserError(_describe_missing_weights(directory))
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(
            f"{index} has no weight_map from tensors to files; save or download it again"
        )
    for file in weight_map.values():
        # A plain file name: a downloaded index must not point to other folders.
        if not (isinstance(file, str) and re.fullmatch(r"\w[\w.-]*\.safetensors", file)):
            raise UserError(
                f"{index} names the file {file!r:.80}; a shard must be a .safetensors file in the "
                "directory of the index"
            )
    tensors: dict[str, np.ndarray] = {}
    for file in sorted(set(weight_map.values())):
        if not (directory / file).exists():
            raise UserError(
                f"{directory} has no {file}, which {index.name} names; download or copy it again"
            )
        shard = _read_file(directory / file, family)
        repeated = sorted(set(shard) & set(tensors))
        if repeated:
            raise UserError(
                f"{directory / file} holds {', '.join(repeated)}, which another shard holds too; "
                "save it again"
            )
        tensors |= shard
    different = sorted(set(weight_map) ^ set(tensors))
    if different:
        raise UserError(
            f"{index} and its shards disagree on {', '.join(different)}; save or download all of "
            "them again"
        )
    return tensors


def _read_file(path: Path, family: Family) -> dict[str, np.ndarray]:
    import safetensors

    # safe_open allocates nothing: it checks lengths, offsets, shapes and dtypes against each other
    # and against the size of the file.
    try:
        with safetensors.safe_open(path, "numpy") as file:
            dtypes = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
            unsupported = [
                f"{name} {dtype}"
                for name, dtype in dtypes.items()
                if dtype not in DTYPES and not family.leaves_out(name)
            ]
            if unsupported:
                raise UserError(
                    f"{path} holds {', '.join(unsupported)}; supported dtypes are "
                    f"{', '.join(DTYPES)}: save the model in one of them"
                )
            return {name: file.get_tensor(name) for name in dtypes}
    except safetensors.SafetensorError as error:
        raise UserError(
            f"{path} is damaged or is no safetensors file ({error}); download or copy it again"
        ) from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None


def _describe_missing_weights(directory: Path) -> str:
    """Say which weights a directory holds instead, and how to convert them."""
    other = sorted(file.name for pattern in OTHER_FORMATS for file in directory.glob(pattern))
    if not other:
        return (
            f"{directory} has no model.safetensors; give a model saved by transformers' "
            "save_pretrained (weights in other formats are neither downloaded nor read)"
        )
    options = {"tf_model.h5": ", from_tf=True", "flax_model.msgpack": ", from_flax=True"}
    option = options.get(other[0], "")
    version = "transformers 4" if option else "transformers"
    problem = (
        "is in another format and is never read"
        if option
        else "is a pickle, which can run code, and is never read"
    )
    return (
        f"{directory} has no model.safetensors, and {other[0]} {problem}; if you trust it, use "
        f"{version}: AutoModelForMaskedLM.from_pretrained({str(directory)!r}{option})"
        ".save_pretrained(NEW, safe_serialization=True)"
    )

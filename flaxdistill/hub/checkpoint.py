"""Models at rest: Hugging Face directories and converted ones."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import shutil
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from flaxdistill.data.tokenizer import LOCAL_KEYS
from flaxdistill.errors import UserError
from flaxdistill.hub import families
from flaxdistill.hub.download import resolve
from flaxdistill.hub.families.base import Family, expected_shapes, read_head, write_head
from flaxdistill.hub.families.config_values import take
from flaxdistill.hub.tensor_files import DTYPES, read_tensors
from flaxdistill.models.config import EncoderConfig
from flaxdistill.param_paths import flatten
from flaxdistill.pytrees import Params
from flaxdistill.runtime.files import brief, hashes, read_json, whole, write_json

TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "merges.txt",
    "vocab.json",
    "special_tokens_map.json",
)


@dataclasses.dataclass(frozen=True)
class Model:
    """A model that was read: numpy leaves in the source's own dtypes.

    ``directory`` is where its tokenizer files lie. ``digest`` is the sha256 over its named tensors and over
    what its config computes: two models are the same if and only if it is equal, whatever layout they were
    read from. ``note`` says in one line what was left out, '' for nothing.
    """

    source: str
    family: Family
    config: EncoderConfig
    params: Params
    directory: Path
    digest: str
    note: str


def read_model(path_or_id: str) -> Model:
    """Read a Hugging Face directory, a converted one or a Hub model; raises UserError for all else."""
    directory = resolve(path_or_id)
    if is_converted(directory):
        family, config, params, digest = _read_converted(directory)
        return Model(path_or_id, family, config, params, directory, digest, "")
    family, config = _described(directory)
    tensors = read_tensors(directory, family)
    bad = sorted(name for name, value in tensors.items() if not np.isfinite(value).all())
    if bad:
        raise UserError(
            f"{directory} holds numbers that are not finite in {', '.join(bad)}; choose another checkpoint"
        )
    config, params, note = family.read(config, tensors, path_or_id)
    return Model(
        path_or_id, family, config, params, directory, digest_of(family, config, params), note
    )


def describe(path_or_id: str) -> Model:
    """Read what ``read_model`` does but the weights, which need not even be fetched; ``params`` and ``digest`` are empty."""
    directory = resolve(path_or_id, files=("*.json",))
    return Model(path_or_id, *_described(directory), {}, directory, "", "")


def _described(directory: Path) -> tuple[Family, EncoderConfig]:
    if is_converted(directory):
        given = read_json(directory / "model.json")
        with _naming(directory / "model.json"):
            return families.family(take(given, "family", str)), encoder_config(given.get("config"))
    given = read_json(directory / "config.json")
    with _naming(directory / "config.json"):
        family = families.family(take(given, "model_type", str))
        return family, read_head(given, family.read_config(given), family)


def write_model(
    directory: str | Path,
    *,
    family: Family,
    config: EncoderConfig,
    params: Params,
    tokenizer: Path | None,
    card: str = "",
    finish: Callable[[Path], None] = lambda folder: None,
) -> None:
    """Write a Hugging Face directory, whole or not at all; dtypes are kept.

    ``tokenizer`` is a directory whose tokenizer files are copied, ``card`` becomes README.md. ``finish``
    is called with the folder before it has its name: what it raises leaves nothing there. Loads in transformers 4
    and 5. Raises UserError if the directory holds anything, or for what the family cannot express.
    """
    import safetensors.numpy

    tensors = family.write(config, params)
    for name, value in tensors.items():
        if value.dtype.name not in DTYPES.values():
            raise ValueError(
                f"{name} is {value.dtype}; a model is written as {', '.join(DTYPES.values())}"
            )
    dtypes = {value.dtype.name for value in tensors.values()}
    wide = "float64" if "float64" in dtypes else "float32"
    dtype = dtypes.pop() if len(dtypes) == 1 else wide
    described = {
        **write_head(config, family),
        "model_type": family.model_type,
        **family.write_config(config),
        "tie_word_embeddings": config.tied_head,
        # transformers 5 reads the first, transformers 4 the second.
        "dtype": dtype,
        "torch_dtype": dtype,
    }
    with whole(directory) as new:
        safetensors.numpy.save_file(tensors, new / "model.safetensors", metadata={"format": "pt"})
        write_json(new / "config.json", described)
        copy_tokenizer(tokenizer, new, family, config)
        if card:
            (new / "README.md").write_text(card, encoding="utf-8")
        finish(new)


def is_converted(directory: Path) -> bool:
    """Tell a converted directory (model.json) from a Hugging Face one; raises UserError if it is both."""
    converted = (directory / "model.json").exists()
    if converted and (directory / "config.json").exists():
        raise UserError(
            f"{directory} holds both config.json and model.json; a Hugging Face directory has the "
            "first and a converted one the second: remove the wrong one"
        )
    return converted


def digest_of(family: Family, config: EncoderConfig, params: Params) -> str:
    """Hash a file's tensors (name, dtype, shape, bytes) and what the config computes; sha256, hex."""
    flat, trained = flatten(params), ("dropout", "attention_dropout", "initializer_range")
    computed = {
        key: value for key, value in dataclasses.asdict(config).items() if key not in trained
    }
    digest = hashlib.sha256(json.dumps([family.model_type, computed]).encode())
    for path, name in sorted(family.names(config).items(), key=lambda item: item[1]):
        value = np.ascontiguousarray(flat[path].T if path.endswith("/kernel") else flat[path])
        digest.update(json.dumps([name, value.dtype.name, value.shape]).encode())
        digest.update(value.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def copy_tokenizer(
    source: Path | None, target: Path, family: Family, config: EncoderConfig
) -> None:
    """Copy the tokenizer files of ``source``, without what they tell of its past, for the inputs of a model."""
    for name in TOKENIZER:
        if source is None or not (source / name).is_file():
            continue
        if name != "tokenizer_config.json":
            shutil.copyfile(source / name, target / name)
            continue
        given = {
            key: value for key, value in read_json(source / name).items() if key not in LOCAL_KEYS
        }
        if given.get("tokenizer_class") == "TokenizersBackend":  # unknown to transformers 4
            given["tokenizer_class"] = "PreTrainedTokenizerFast"
        # transformers 4 fails where a tokenizer gives its model an input too many.
        types = ["token_type_ids"] if family.token_type_ids else []
        given["model_input_names"] = ["input_ids", *types, "attention_mask"]
        longest = given.get("model_max_length")
        given_length = [longest] if isinstance(longest, (int, float)) and longest > 0 else []
        given["model_max_length"] = min([*given_length, config.max_positions])
        write_json(target / name, given)


def _read_converted(directory: Path) -> tuple[Family, EncoderConfig, Params, str]:
    import orbax.checkpoint

    file, folder = directory / "model.json", (directory / "params").absolute()
    given = read_json(file)
    again = "convert the model again"
    if given.get("format") != 1:
        raise UserError(
            f"{file} has format {given.get('format')!r:.80} and 1 is known here; {again} or update flaxdistill"
        )
    family, config = _described(directory)
    # Before orbax sees them: what it says of a damaged file is long and comes from many threads.
    found, listed = hashes(folder), given.get("files")
    if found != listed:
        listed = listed if isinstance(listed, dict) else {}
        differ = sorted(
            name for name in set(found) | set(listed) if found.get(name) != listed.get(name)
        )
        raise UserError(
            f"{folder} is not what {file.name} lists: see {', '.join(differ[:5])}; {again}"
        )
    try:
        with orbax.checkpoint.StandardCheckpointer() as checkpointer:
            # Shapes first: a file that claims more than its config is not worth allocating for.
            stored = flatten(checkpointer.metadata(folder).item_metadata.tree)
            if config.num_layers > len(stored):
                raise UserError(
                    f"{file.name} asks for {config.num_layers} layers and {folder} holds fewer; {again}"
                )
            shapes = expected_shapes(config)
            wrong = sorted(
                p
                for p in set(stored) | set(shapes)
                if getattr(stored.get(p), "shape", None) != shapes.get(p)
            )
            if wrong:
                raise UserError(
                    f"{folder} is not the model that {file.name} describes: see {', '.join(wrong)}; {again}"
                )
            params = checkpointer.restore(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, MemoryError) as error:
        raise UserError(f"{folder} is damaged or no parameters ({brief(error)}); {again}") from None
    digest = digest_of(family, config, params)
    if digest != given.get("digest"):
        raise UserError(
            f"{folder} has digest {digest[:12]} and {file.name} says {given.get('digest')!s:.80}; {again}"
        )
    return family, config, params, digest


def encoder_config(given: Any) -> EncoderConfig:
    """Read an encoder's config as ``dataclasses.asdict`` and JSON wrote it; raises UserError for anything else."""
    if not isinstance(given, dict):
        raise UserError("config is missing; convert the model again")
    hints = typing.get_type_hints(EncoderConfig)
    if set(given) != set(hints):
        raise UserError(
            f"config differs in {', '.join(sorted(set(given) ^ set(hints)))}; convert the model again"
        )
    values: dict[str, Any] = {}
    for key, hint in hints.items():
        if key == "labels":
            if not isinstance(given[key], list | tuple):
                raise UserError(f"labels is {given[key]!r}; write a list of names")
            values[key] = tuple(map(str, given[key]))
            continue
        choices = typing.get_args(hint)
        values[key] = take(given, key, str if choices else hint)
        if choices and values[key] not in choices:
            raise UserError(f"{key} is {values[key]!r}; known are {', '.join(choices)}")
    return EncoderConfig(**values)


@contextlib.contextmanager
def _naming(file: Path) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"{file}: {error}") from None

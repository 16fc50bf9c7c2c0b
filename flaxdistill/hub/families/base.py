"""What a Hugging Face family is: its config, its tensor names, and what of a checkpoint is left out."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from flaxdistill.errors import UserError
from flaxdistill.hub.families.config_values import refuse_unless
from flaxdistill.models.config import EncoderConfig, Head
from flaxdistill.param_paths import flatten, unflatten
from flaxdistill.pytrees import Params

Tensors = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """A key map between our parameter paths and Hugging Face's tensor names.

    ``encoder``, ``pooler``, ``mlm`` and ``classifiers`` map a path prefix to a name prefix, ``{i}`` standing for the
    layer; the last part follows from the kind of leaf (``kernel`` is a transposed ``weight``, ``embedding`` and
    ``scale`` a ``weight``). ``ignored`` names what a checkpoint may hold beside them and we leave out.
    """

    model_type: str
    prefix: str  # of the encoder's names inside a model with a head
    architectures: Mapping[Head, str]
    read_config: Callable[[Mapping[str, Any]], EncoderConfig]
    write_config: Callable[[EncoderConfig], dict[str, Any]]
    encoder: Mapping[str, str]
    pooler: str  # between the first token and a row's classes
    pooler_activation: Literal["tanh", "relu"]
    classifiers: Mapping[Head, str]
    mlm: Mapping[str, str]
    mlm_bias: str
    decoder: str  # the untied head, without .weight
    ignored: tuple[str, ...]
    token_type_ids: bool  # whether its tokenizer gives them

    def names(self, config: EncoderConfig) -> dict[str, str]:
        """Map every parameter path of ``config`` to its tensor name in a model with a head."""
        names: dict[str, str] = {}
        for path, name in self.encoder.items():
            if "{i}" in path:
                for i in range(config.num_layers):
                    names |= _leaves(path.format(i=i), self.prefix + name.format(i=i))
            elif path != "embeddings/token_type" or config.type_vocab_size:
                names |= _leaves(path, self.prefix + name)
        if config.pooler:
            names |= _leaves("pooler", self.pooler)
        if config.head in self.classifiers:
            names |= _leaves("classifier", self.classifiers[config.head])
        if config.head == "mlm":
            for path, name in self.mlm.items():
                names |= _leaves(path, name)
            names["mlm/bias"] = self.mlm_bias
            if not config.tied_head:
                # Hugging Face's untied head adds its decoder's bias, the tied one the other.
                names["mlm/decoder/embedding"] = self.decoder + ".weight"
                names["mlm/bias"] = self.decoder + ".bias"
        return names

    def read(
        self, config: EncoderConfig, tensors: Tensors, source: str
    ) -> tuple[EncoderConfig, Params, str]:
        """Turn named tensors into parameters, source dtypes kept.

        Returns the config as the tensors have it (head or none, pooler or none), the parameters as numpy
        leaves, and one line that says what was left out ('' for nothing). Raises UserError listing every
        unknown, missing or misshapen tensor.
        """
        tensors, problems = self._modern(tensors)
        config = self._as_stored(config, tensors, source)
        # A layer has more than one tensor: a config that claims more layers is not worth walking.
        if config.num_layers > len(tensors):
            raise UserError(
                f"{source}: config.json asks for {config.num_layers} layers and the file holds "
                f"{len(tensors)} tensors in all; check that config and weights belong together"
            )
        names, shapes = self.names(config), expected_shapes(config)
        flat = {}
        for path, name in names.items():
            found = tensors.get(name)
            if (
                found is None and path == "mlm/bias"
            ):  # transformers 4 ties the two biases and saves either
                name = self.mlm_bias if self.decoder + ".bias" == name else self.decoder + ".bias"
                found = tensors.get(name)
            if found is None:
                problems.append(f"missing {names[path]} {_file_shape(path, shapes[path])}")
                continue
            flat[path] = found.T if path.endswith("/kernel") else found
            if flat[path].shape != shapes[path]:
                asked = _file_shape(path, shapes[path])
                problems.append(
                    f"{name} has shape {list(found.shape)} where the config asks for {asked}"
                )
        left_out = []
        # Tied tensors may come once more under the decoder's names.
        copies = {self.decoder + ".weight", self.decoder + ".bias", self.mlm_bias}
        for name in sorted(set(tensors) - set(names.values())):
            if self.leaves_out(name):
                left_out.append(name)
            elif name not in copies:
                problems.append(f"unknown {name} {list(tensors[name].shape)}")
            elif name == self.mlm_bias and not _same(tensors[name], flat.get("mlm/bias")):
                left_out.append(f"{name} (an untied head adds {self.decoder}.bias)")
        if problems:
            more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
            raise UserError(
                f"{source} is no {self.model_type} checkpoint as its config.json describes it: "
                f"{'; '.join(problems[:3])}{more}; check that config and weights belong together"
            )
        return config, unflatten(flat), f"left out: {', '.join(left_out)}" if left_out else ""

    def write(self, config: EncoderConfig, params: Params) -> dict[str, np.ndarray]:
        """Turn parameters into named, contiguous tensors, dtypes kept; without a head, without the prefix."""
        names, flat = self.names(config), flatten(params)
        if set(names) != set(flat):
            differ = ", ".join(sorted(set(names) ^ set(flat)))
            raise ValueError(
                f"parameters and config of this {self.model_type} disagree on {differ}"
            )
        cut = len(self.prefix) if config.head == "none" else 0
        tensors = {
            name[cut:]: np.ascontiguousarray(
                flat[path].T if path.endswith("/kernel") else flat[path]
            )
            for path, name in names.items()
        }
        if config.head == "mlm":
            # transformers 4 adds this one, transformers 5 adds an untied decoder's own: both must be there.
            tensors[self.mlm_bias] = tensors[names["mlm/bias"]]
        return tensors

    def leaves_out(self, name: str) -> bool:
        """Tell whether a tensor of this name, with or without the prefix, is left out whatever it holds."""
        return any(
            re.fullmatch(pattern, n) for pattern in self.ignored for n in (name, self.prefix + name)
        )

    def _modern(self, tensors: Tensors) -> tuple[dict[str, np.ndarray], list[str]]:
        """Name the tensors as a model with a head does today, and list those that come twice."""
        bare = not any(name.startswith(self.prefix) for name in tensors)
        heads = self._head_names()
        modern: dict[str, np.ndarray] = {}
        problems = []
        for old, value in tensors.items():
            # TensorFlow's names, which the first published checkpoints kept.
            name = old.replace("LayerNorm.gamma", "LayerNorm.weight").replace(
                "LayerNorm.beta", "LayerNorm.bias"
            )
            if (
                bare
                and not name.startswith(heads)
                and not any(re.fullmatch(p, name) for p in self.ignored)
            ):
                name = self.prefix + name
            if name in modern:
                problems.append(f"{name} comes twice, under an old name as well")
            modern[name] = value
        return modern, problems

    def _as_stored(self, config: EncoderConfig, tensors: Tensors, source: str) -> EncoderConfig:
        mlm = any(
            name.startswith((*self.mlm.values(), self.mlm_bias, self.decoder)) for name in tensors
        )
        pooler = any(name.startswith(self.pooler) for name in tensors)
        found = {head for head, name in self.classifiers.items() if name + ".weight" in tensors}
        # The same name may stand for classes of a row and of every token: config.json says which, or the pooler does.
        head: Head = "mlm" if mlm else "none"
        if mlm and config.head == "mlm":
            found = set()
        if found:
            guess: Head = (
                "sequence" if pooler and "sequence" in found else sorted(found - {"sequence"})[0]
            )
            head = config.head if config.head in found else guess
            rows = next(iter(tensors[self.classifiers[head] + ".weight"].shape), 0)
            labels = (
                config.labels
                if len(config.labels) == rows
                else tuple(f"LABEL_{i}" for i in range(rows))
            )
            config = dataclasses.replace(config, head=head, labels=() if head == "span" else labels)
        # A pooler beside another head says nothing that we compute; classes of a row are read from one.
        pooler = head == "sequence" or (pooler and head == "none")
        config = dataclasses.replace(
            config,
            head=head,
            labels=config.labels if found else (),
            pooler=pooler,
            pooler_activation=self.pooler_activation if pooler else "tanh",
            tied_head=config.tied_head or head != "mlm",
        )
        if head == "mlm" and config.tied_head:
            word = self.prefix + self.encoder["embeddings/word"] + ".weight"
            for own, tied in (
                (self.decoder + ".weight", word),
                (self.decoder + ".bias", self.mlm_bias),
            ):
                if own in tensors and tied in tensors and not _same(tensors[own], tensors[tied]):
                    raise UserError(
                        f"{source}: config.json ties the MLM head to the word embeddings, but {own} "
                        f"differs from {tied}; "
                        'write "tie_word_embeddings": false into config.json to keep the head of its own'
                    )
        return config

    def _head_names(self) -> tuple[str, ...]:
        pooler = () if self.pooler.startswith(self.prefix) else (self.pooler,)
        return (
            *self.mlm.values(),
            self.mlm_bias,
            self.decoder,
            *self.classifiers.values(),
            *pooler,
        )


def read_head(given: Mapping[str, Any], config: EncoderConfig, family: Family) -> EncoderConfig:
    """Read from config.json which head a model has, as far as it says, and the names of its classes."""
    named = {name: head for head, name in family.architectures.items()}
    listed = given.get("architectures")
    first = str(listed[0]) if isinstance(listed, list) and listed else ""
    head = named.get(first, config.head)
    names = given.get("id2label")
    names = {str(key): value for key, value in names.items()} if isinstance(names, Mapping) else {}
    labels = tuple(str(names.get(str(i), f"LABEL_{i}")) for i in range(len(names)))
    refuse_unless(given, "problem_type", None, "single_label_classification", "regression")
    if head not in ("sequence", "tokens"):
        labels = ()
    elif not labels:
        labels = ("LABEL_0", "LABEL_1")  # what transformers takes two classes for
    return dataclasses.replace(config, head=head, labels=labels)


def write_head(config: EncoderConfig, family: Family) -> dict[str, Any]:
    """Write what config.json says of a head; raises UserError for one that the family does not have."""
    described: dict[str, Any] = {"architectures": [family.architectures[config.head]]}
    if config.labels:
        described["id2label"] = {str(i): label for i, label in enumerate(config.labels)}
        described["label2id"] = {label: i for i, label in enumerate(config.labels)}
    if config.head == "sequence":
        kind = "regression" if len(config.labels) == 1 else "single_label_classification"
        described["problem_type"] = kind
    return described


def expected_shapes(config: EncoderConfig) -> dict[str, tuple[int, ...]]:
    """Give the shape of every parameter of ``config`` by path; nothing need be initialised for it."""
    D, F = config.hidden_size, config.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {}

    def dense(path: str, inputs: int, outputs: int) -> None:
        shapes[path + "/kernel"], shapes[path + "/bias"] = (inputs, outputs), (outputs,)

    def norm(path: str) -> None:
        shapes[path + "/scale"] = shapes[path + "/bias"] = (D,)

    tables = {
        "word": config.vocab_size,
        "position": config.max_positions,
        "token_type": config.type_vocab_size,
    }
    for table, rows in tables.items():
        if rows:
            shapes[f"embeddings/{table}/embedding"] = (rows, D)
    norm("embeddings/norm")
    for i in range(config.num_layers):
        for name in ("query", "key", "value", "attention"):
            dense(f"layer_{i}/{name}", D, D)
        dense(f"layer_{i}/inner", D, F)
        dense(f"layer_{i}/outer", F, D)
        norm(f"layer_{i}/attention_norm")
        norm(f"layer_{i}/norm")
    if config.pooler:
        dense("pooler", D, D)
    if config.head in ("sequence", "tokens", "span"):
        dense("classifier", D, len(config.labels) or 2)
    if config.head == "mlm":
        dense("mlm/transform", D, D)
        norm("mlm/norm")
        shapes["mlm/bias"] = (config.vocab_size,)
        if not config.tied_head:
            shapes["mlm/decoder/embedding"] = (config.vocab_size, D)
    return shapes


def _leaves(path: str, name: str) -> dict[str, str]:
    if path.startswith("embeddings/") and not path.endswith("norm"):
        return {path + "/embedding": name + ".weight"}
    weight = "scale" if path.endswith("norm") else "kernel"
    return {f"{path}/{weight}": name + ".weight", f"{path}/bias": name + ".bias"}


def _file_shape(path: str, shape: tuple[int, ...]) -> list[int]:
    return list(reversed(shape)) if path.endswith("/kernel") else list(shape)


def _same(a: np.ndarray, b: np.ndarray | None) -> bool:
    return b is not None and a.shape == b.shape and np.array_equal(a, b)


def count(config: EncoderConfig) -> int:
    """Count the parameters of an encoder with its head."""
    total = 0
    for shape in expected_shapes(config).values():
        size = 1
        for n in shape:
            size *= n
        total += size
    return total

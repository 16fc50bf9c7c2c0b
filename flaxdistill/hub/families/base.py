"""A model family of Hugging Face: its config and its tensor names."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from flaxdistill.errors import UserError
from flaxdistill.hub.families.shapes import expected_shapes
from flaxdistill.models.config import EncoderConfig, Head
from flaxdistill.param_paths import flatten, unflatten
from flaxdistill.pytrees import Params

Tensors = Mapping[str, np.ndarray]

CHECK = "check that config and weights belong together"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """A map between parameter paths and the tensor names of Hugging Face.

    ``encoder``, ``pooler``, ``mlm`` and ``classifiers`` map a path prefix to a name prefix; ``{i}``
    is the number of the layer. The last part of a name follows from the parameter: ``kernel`` is a
    transposed ``weight``; ``embedding`` and ``scale`` are a ``weight``.
    """

    model_type: str

    prefix: str
    """Prefix of the encoder's tensor names in a model with a head."""

    architectures: Mapping[Head, str]
    """Class names of transformers by head."""

    read_config: Callable[[Mapping[str, Any]], EncoderConfig]
    write_config: Callable[[EncoderConfig], dict[str, Any]]
    encoder: Mapping[str, str]

    pooler: str
    """The dense layer between the first token and the classifier of a sequence."""

    pooler_activation: Literal["tanh", "relu"]
    classifiers: Mapping[Head, str]
    mlm: Mapping[str, str]
    mlm_bias: str

    decoder: str
    """The output embedding of an untied MLM head, without ``.weight``."""

    ignored: tuple[str, ...]
    """Patterns of tensor names that a checkpoint may hold and that are left out."""

    token_type_ids: bool
    """Whether its tokenizer returns token types."""

    def names(self, config: EncoderConfig) -> dict[str, str]:
        """Return the tensor name of every parameter of ``config``, as in a model with a head."""
        names: dict[str, str] = {}
        for path, name in self.encoder.items():
            if "{i}" in path:
                for i in range(config.num_layers):
                    names |= _leaf_names(path.format(i=i), self.prefix + name.format(i=i))
            elif path != "embeddings/token_type" or config.type_vocab_size:
                names |= _leaf_names(path, self.prefix + name)
        if config.pooler:
            names |= _leaf_names("pooler", self.pooler)
        if config.head in self.classifiers:
            names |= _leaf_names("classifier", self.classifiers[config.head])
        if config.head == "mlm":
            for path, name in self.mlm.items():
                names |= _leaf_names(path, name)
            names["mlm/bias"] = self.mlm_bias
            if not config.tied_head:
                # An untied head of Hugging Face adds its decoder's bias, a tied one ``mlm_bias``.
                names["mlm/decoder/embedding"] = self.decoder + ".weight"
                names["mlm/bias"] = self.decoder + ".bias"
        return names

    def read(
        self, config: EncoderConfig, tensors: Tensors, source: str
    ) -> tuple[EncoderConfig, Params, str]:
        """Convert named tensors to parameters; dtypes are preserved.

        Returns the config with the head and the pooler that the tensors have, the parameters as
        numpy arrays, and one line that lists what was left out (empty if nothing was). Raises
        UserError that lists unknown, missing and misshapen tensors.
        """
        tensors, problems = self._current_names(tensors)
        config = self._stored_config(config, tensors, source)
        # Each layer has several tensors. The check bounds the loop over layers of a wrong config.
        if config.num_layers > len(tensors):
            raise UserError(
                f"{source}: config.json has {config.num_layers} layers but the file holds only "
                f"{len(tensors)} tensors; {CHECK}"
            )
        flat, more = self._parameters(config, tensors)
        left_out, unknown = self._unused(config, tensors, flat)
        problems += more + unknown
        if problems:
            rest = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
            raise UserError(
                f"{source} does not match its config.json as a {self.model_type} checkpoint: "
                f"{'; '.join(problems[:3])}{rest}; {CHECK}"
            )
        return config, unflatten(flat), f"left out: {', '.join(left_out)}" if left_out else ""

    def write(self, config: EncoderConfig, params: Params) -> dict[str, np.ndarray]:
        """Convert parameters to named, contiguous tensors; dtypes are preserved.

        A model without a head has names without the prefix.
        """
        names, flat = self.names(config), flatten(params)
        if set(names) != set(flat):
            different = ", ".join(sorted(set(names) ^ set(flat)))
            raise ValueError(
                f"parameters and config of this {self.model_type} disagree on {different}"
            )
        cut = len(self.prefix) if config.head == "none" else 0
        tensors = {
            name[cut:]: np.ascontiguousarray(
                flat[path].T if path.endswith("/kernel") else flat[path]
            )
            for path, name in names.items()
        }
        if config.head == "mlm":
            # transformers 4 adds this bias, transformers 5 that of an untied decoder: write both.
            tensors[self.mlm_bias] = tensors[names["mlm/bias"]]
        return tensors

    def leaves_out(self, name: str) -> bool:
        """Return whether a tensor is left out by its name, with or without the prefix."""
        return any(
            re.fullmatch(pattern, full)
            for pattern in self.ignored
            for full in (name, self.prefix + name)
        )

    def _current_names(self, tensors: Tensors) -> tuple[dict[str, np.ndarray], list[str]]:
        """Rename tensors as a model with a head names them today; list names that occur twice."""
        without_prefix = not any(name.startswith(self.prefix) for name in tensors)
        pooler = () if self.pooler.startswith(self.prefix) else (self.pooler,)
        heads = (
            *self.mlm.values(),
            self.mlm_bias,
            self.decoder,
            *self.classifiers.values(),
            *pooler,
        )
        renamed: dict[str, np.ndarray] = {}
        problems = []
        for old, value in tensors.items():
            # TensorFlow's names, which the first published checkpoints have.
            name = old.replace("LayerNorm.gamma", "LayerNorm.weight").replace(
                "LayerNorm.beta", "LayerNorm.bias"
            )
            ignored = any(re.fullmatch(pattern, name) for pattern in self.ignored)
            if without_prefix and not name.startswith(heads) and not ignored:
                name = self.prefix + name
            if name in renamed:
                problems.append(f"{name} occurs twice, once under an old name")
            renamed[name] = value
        return renamed, problems

    def _parameters(
        self, config: EncoderConfig, tensors: Tensors
    ) -> tuple[dict[str, np.ndarray], list[str]]:
        """Return the parameters by path, and list the missing and misshapen ones."""
        shapes = expected_shapes(config)
        flat: dict[str, np.ndarray] = {}
        problems = []
        for path, expected_name in self.names(config).items():
            name, tensor = expected_name, tensors.get(expected_name)
            if tensor is None and path == "mlm/bias":
                # transformers 4 ties the two biases and saves only one of them.
                name = self.mlm_bias if self.decoder + ".bias" == name else self.decoder + ".bias"
                tensor = tensors.get(name)
            shape = _file_shape(path, shapes[path])
            if tensor is None:
                problems.append(f"missing {expected_name} {shape}")
                continue
            flat[path] = tensor.T if path.endswith("/kernel") else tensor
            if flat[path].shape != shapes[path]:
                problems.append(
                    f"{name} has shape {list(tensor.shape)} but the config requires {shape}"
                )
        return flat, problems

    def _unused(
        self, config: EncoderConfig, tensors: Tensors, flat: Mapping[str, np.ndarray]
    ) -> tuple[list[str], list[str]]:
        """List the tensors that are left out, and the unknown ones."""
        left_out, problems = [], []
        # A checkpoint may repeat tied tensors under the names of the decoder.
        copies = {self.decoder + ".weight", self.decoder + ".bias", self.mlm_bias}
        for name in sorted(set(tensors) - set(self.names(config).values())):
            if self.leaves_out(name):
                left_out.append(name)
            elif name not in copies:
                problems.append(f"unknown {name} {list(tensors[name].shape)}")
            elif name == self.mlm_bias and not _equal(tensors[name], flat.get("mlm/bias")):
                left_out.append(f"{name} (an untied head adds {self.decoder}.bias)")
        return left_out, problems

    def _stored_config(self, config: EncoderConfig, tensors: Tensors, source: str) -> EncoderConfig:
        """Set head, labels and pooler according to the tensors."""
        mlm = any(
            name.startswith((*self.mlm.values(), self.mlm_bias, self.decoder)) for name in tensors
        )
        pooler = any(name.startswith(self.pooler) for name in tensors)
        heads = {head for head, name in self.classifiers.items() if name + ".weight" in tensors}
        if mlm and config.head == "mlm":
            heads = set()
        head: Head = "mlm" if mlm else "none"
        labels: tuple[str, ...] = ()
        if heads:
            # Classifiers of a sequence and of tokens may share a name. config.json decides; if it
            # does not name a head, the pooler does.
            pooled = pooler and "sequence" in heads
            guess: Head = "sequence" if pooled else sorted(heads - {"sequence"})[0]
            head = config.head if config.head in heads else guess
            classes = next(iter(tensors[self.classifiers[head] + ".weight"].shape), 0)
            if head != "span":
                defaults = tuple(f"LABEL_{i}" for i in range(classes))
                labels = config.labels if len(config.labels) == classes else defaults
        # Other heads do not use the pooler; a model without a head returns its output.
        pooler = head == "sequence" or (pooler and head == "none")
        config = dataclasses.replace(
            config,
            head=head,
            labels=labels,
            pooler=pooler,
            pooler_activation=self.pooler_activation if pooler else "tanh",
            tied_head=config.tied_head or head != "mlm",
        )
        if head == "mlm" and config.tied_head:
            self._check_tied(tensors, source)
        return config

    def _check_tied(self, tensors: Tensors, source: str) -> None:
        word = self.prefix + self.encoder["embeddings/word"] + ".weight"
        pairs = ((self.decoder + ".weight", word), (self.decoder + ".bias", self.mlm_bias))
        for name, tied in pairs:
            if name in tensors and tied in tensors and not _equal(tensors[name], tensors[tied]):
                raise UserError(
                    f"{source}: config.json ties the MLM head to the word embeddings, but {name} "
                    f'differs from {tied}; write "tie_word_embeddings": false into config.json to '
                    "keep the separate head"
                )


def _leaf_names(path: str, name: str) -> dict[str, str]:
    if path.startswith("embeddings/") and not path.endswith("norm"):
        return {path + "/embedding": name + ".weight"}
    weight = "scale" if path.endswith("norm") else "kernel"
    return {f"{path}/{weight}": name + ".weight", f"{path}/bias": name + ".bias"}


def _file_shape(path: str, shape: tuple[int, ...]) -> list[int]:
    return list(reversed(shape)) if path.endswith("/kernel") else list(shape)


def _equal(a: np.ndarray, b: np.ndarray | None) -> bool:
    return b is not None and a.shape == b.shape and np.array_equal(a, b)

"""A model family of Hugging Face: its config and its tensor names."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from flaxdistill.errors import UserError
from flaxdistill.hub.families.tensors import Tensor, equal, leaves
from flaxdistill.models.architecture import Architecture, shapes_of
from flaxdistill.models.head import Head, NoHead
from flaxdistill.models.transformer import Transformer
from flaxdistill.param_paths import flatten, unflatten
from flaxdistill.pytrees import Feature, Params

Tensors = Mapping[str, np.ndarray]

CHECK = "check that config and weights belong together"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """A map between parameter paths and the tensor names of Hugging Face.

    ``encoder``, ``pooler`` and ``heads`` map a path prefix to a name prefix; ``{i}`` is the number
    of the layer. The last part of a name follows from the parameter: ``kernel`` is a transposed
    ``weight``; ``embedding`` and ``scale`` are a ``weight``. A family with other tensors overrides
    ``tensors``.
    """

    model_type: str
    proof: tuple[str, ...]
    """Keys of config.json that together no other family has."""
    architecture: type[Transformer]
    """The architecture of its models."""

    class_prefix: str
    """The start of the class names in transformers, such as Bert."""

    prefix: str
    """Prefix of the encoder's tensor names in a model with a head."""

    read_config: Callable[[Mapping[str, Any]], Transformer]
    write_config: Callable[[Any], dict[str, Any]]
    encoder: Mapping[str, str]

    pooler: str
    """The dense layer between the first token and the classifier of a sequence."""

    pooler_activation: Literal["tanh", "relu"]

    heads: Mapping[type[Head], Mapping[str, str]]
    """The parameters of each head that the family has, besides ``mlm_bias`` and ``decoder``."""

    mlm_bias: str
    decoder: str
    """The output embedding of an untied MLM head, without ``.weight``."""

    pretraining: tuple[str, ...]
    """Class names in transformers that are read as a masked-LM."""

    ignored: tuple[str, ...]
    """Patterns of tensor names that a checkpoint may hold and that are left out."""

    token_type_ids: bool
    """Whether its tokenizer returns token types."""

    def class_name(self, head: Head | type[Head]) -> str:
        """Return the class of transformers for a model with this head."""
        return self.class_prefix + head.transformers_class

    def check(self, config: Architecture) -> None:
        """Raise UserError unless the family can hold a model of this architecture and head."""
        if type(config) is not self.architecture:  # a subclass may compute something else
            raise UserError(
                f"the family {self.model_type} holds models of {self.architecture.__name__}, and "
                f"this is a {type(config).__name__}; it cannot be exported as {self.model_type}"
            )
        if type(config.head) not in self.heads:
            known = ", ".join(head.name for head in self.heads)
            raise UserError(f"a {self.model_type} has no {config.head.name} head; it has {known}")
        self.write_config(config)

    def student(self, config: Any, head: Head, **dropout: float) -> Any:
        """Return the config of a student: sizes, head, dropout and what the family requires."""
        return dataclasses.replace(
            config,
            head=head,
            type_vocab_size=(config.type_vocab_size or 2) if self.token_type_ids else 0,
            pooler=head.pools,
            pooler_activation=self.pooler_activation if head.pools else "tanh",
            **dropout,
        )

    def tensors(self, config: Any) -> tuple[Tensor, ...]:
        """Return the tensors of a model with a head, which hold all parameters of ``config``."""
        tensors: list[Tensor] = []
        for path, name in self.encoder.items():
            if "{i}" in path:
                for i in range(config.num_layers):
                    tensors += leaves(path.format(i=i), self.prefix + name.format(i=i))
            elif path != "embeddings/token_type" or config.type_vocab_size:
                tensors += leaves(path, self.prefix + name)
        if config.pooler:
            tensors += leaves("pooler", self.pooler)
        for path, name in self.heads[type(config.head)].items():
            tensors += leaves(path, name)
        if config.head.feature is Feature.VOCAB:
            # An untied head adds its decoder's bias in transformers 5, ``mlm_bias`` in 4, which
            # ties the two and saves one of them.
            bias, other = self.mlm_bias, self.decoder + ".bias"
            if config.tied_head:
                tensors.append(Tensor(bias, ("mlm/bias",), fallbacks=(other,)))
            else:
                tensors.append(Tensor(self.decoder + ".weight", ("mlm/decoder/embedding",)))
                tensors.append(Tensor(other, ("mlm/bias",), fallbacks=(bias,), copies=(bias,)))
        return tuple(tensors)

    def read(self, config: Any, tensors: Tensors, source: str) -> tuple[Any, Params, str]:
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

    def decode(self, config: Any, tensors: Mapping[str, Any]) -> Params:
        """Return the parameters of complete tensors, as ``write`` names them; may be traced."""
        start = self._prefix_length(config)
        flat = {
            path: param
            for tensor in self.tensors(config)
            for path, param in zip(
                tensor.paths, tensor.decode(tensors[tensor.name[start:]]), strict=True
            )
        }
        return unflatten(flat)

    def write(self, config: Any, params: Params) -> dict[str, np.ndarray]:
        """Convert parameters to named, contiguous tensors; dtypes are preserved.

        A model without a head has names without the prefix.
        """
        flat, tensors = flatten(params), self.tensors(config)
        paths = {path for tensor in tensors for path in tensor.paths}
        if paths != set(flat):
            different = ", ".join(sorted(paths ^ set(flat)))
            raise ValueError(
                f"parameters and config of this {self.model_type} disagree on {different}"
            )
        start = self._prefix_length(config)
        written: dict[str, np.ndarray] = {}
        for tensor in tensors:
            value = np.ascontiguousarray(tensor.encode(*(flat[path] for path in tensor.paths)))
            written |= dict.fromkeys(
                (name[start:] for name in (tensor.name, *tensor.copies)), value
            )
        return written

    def _prefix_length(self, config: Architecture) -> int:
        return len(self.prefix) if config.head.feature is Feature.HIDDEN else 0

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
        names = (name for table in self.heads.values() for name in table.values())
        heads = (*names, self.mlm_bias, self.decoder, *pooler)
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

    def _parameters(self, config: Any, tensors: Tensors) -> tuple[dict[str, np.ndarray], list[str]]:
        """Return the parameters by path, and list the missing and misshapen ones."""
        shapes = {path: leaf.shape for path, leaf in flatten(shapes_of(config)).items()}
        flat: dict[str, np.ndarray] = {}
        problems = []
        for tensor in self.tensors(config):
            expected = tensor.file_shape(*(shapes[path] for path in tensor.paths))
            names = (tensor.name, *tensor.fallbacks)
            name = next((name for name in names if name in tensors), None)
            if name is None:
                problems.append(f"missing {tensor.name} {list(expected)}")
            elif tensors[name].shape != expected:
                problems.append(
                    f"{name} has shape {list(tensors[name].shape)} but the config requires "
                    f"{list(expected)}"
                )
            else:
                flat |= zip(tensor.paths, tensor.decode(tensors[name]), strict=True)
        return flat, problems

    def _unused(
        self, config: Any, tensors: Tensors, flat: Mapping[str, np.ndarray]
    ) -> tuple[list[str], list[str]]:
        """List the tensors that are left out, and the unknown ones."""
        left_out, problems = [], []
        # A checkpoint may repeat tied tensors under the names of the decoder.
        copies = {self.decoder + ".weight", self.decoder + ".bias", self.mlm_bias}
        used = {tensor.name for tensor in self.tensors(config)}
        for name in sorted(set(tensors) - used):
            if self.leaves_out(name):
                left_out.append(name)
            elif name not in copies:
                problems.append(f"unknown {name} {list(tensors[name].shape)}")
            elif name == self.mlm_bias and not equal(tensors[name], flat.get("mlm/bias")):
                left_out.append(f"{name} (an untied head adds {self.decoder}.bias)")
        return left_out, problems

    def _stored_config(self, config: Any, tensors: Tensors, source: str) -> Any:
        """Set head, labels and pooler according to the tensors."""
        pooler = any(name.startswith(self.pooler) for name in tensors)
        head = self._stored_head(config.head, tensors, pooler=pooler)
        vocab = head.feature is Feature.VOCAB
        # Other heads do not use the pooler; a model without a head returns its output.
        pooler = head.pools or (pooler and head.feature is Feature.HIDDEN)
        config = dataclasses.replace(
            config,
            head=head,
            pooler=pooler,
            pooler_activation=self.pooler_activation if pooler else "tanh",
            tied_head=config.tied_head or not vocab,
        )
        if vocab and config.tied_head:
            self._check_tied(tensors, source)
        return config

    def _stored_head(self, named: Head, tensors: Tensors, *, pooler: bool) -> Head:
        """Return the head that the tensors have; if several fit, the one that config.json names."""
        present = [head for head in self.heads if self._has(head, tensors)]
        if type(named) in present:
            kind = type(named)
        else:
            # Classifiers of a sequence and of tokens may share a name; the pooler decides.
            present.sort(key=lambda h: (h.feature is Feature.VOCAB, h.pools != pooler, h.name))
            kind = (present or [NoHead])[0]
        if not kind.has_labels:
            return kind()
        classes = next(iter(tensors[self.heads[kind]["classifier"] + ".weight"].shape), 0)
        labels = tuple(f"LABEL_{i}" for i in range(classes))
        return kind(labels=named.labels if len(named.labels) == classes else labels)

    def _has(self, head: type[Head], tensors: Tensors) -> bool:
        names = tuple(self.heads[head].values())
        if head.feature is Feature.VOCAB:
            prefixes = (*names, self.mlm_bias, self.decoder)
            return any(name.startswith(prefixes) for name in tensors)
        return bool(names) and all(name + ".weight" in tensors for name in names)

    def _check_tied(self, tensors: Tensors, source: str) -> None:
        word = self.prefix + self.encoder["embeddings/word"] + ".weight"
        pairs = ((self.decoder + ".weight", word), (self.decoder + ".bias", self.mlm_bias))
        for name, tied in pairs:
            if name in tensors and tied in tensors and not equal(tensors[name], tensors[tied]):
                raise UserError(
                    f"{source}: config.json ties the MLM head to the word embeddings, but {name} "
                    f'differs from {tied}; write "tie_word_embeddings": false into config.json to '
                    "keep the separate head"
                )

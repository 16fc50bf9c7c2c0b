"""The configuration of a corpus, and of how it is prepared."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

from flaxdistill.data.sources import Source
from flaxdistill.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Text sources, a vocabulary, and how text becomes blocks of tokens.

    ``sources`` and ``held_out_sources`` may be any sequence of sources or paths, or a single one.
    """

    sources: tuple[Source, ...] = (Source("docstrings"),)
    """Training sources, and held-out ones if `held_out_sources` is empty."""

    held_out_sources: tuple[Source, ...] = ()
    """Held-out sources; if empty, a fraction of the documents of `sources` is held out."""

    held_out: float = 0.02
    """Fraction to hold out, chosen by document hash, so exact duplicates stay on one side."""

    held_out_blocks: int = 1024
    """Maximum number of blocks for evaluation; further documents stay in training."""

    duplicates: Literal["drop", "keep"] = "keep"
    """What to do with exact repetitions of an earlier document; the manifest counts them."""

    tokenizer: str | None = None
    """Directory or file of a tokenizer; None trains a WordPiece vocabulary on `sources`."""

    vocab_size: int = 8192
    """Number of entries, if a vocabulary is trained."""

    max_length: int = 128
    """Tokens per block, including [CLS] and [SEP]."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "sources", _as_sources(self.sources))
        object.__setattr__(self, "held_out_sources", _as_sources(self.held_out_sources))
        if isinstance(self.tokenizer, os.PathLike):
            object.__setattr__(self, "tokenizer", os.fspath(self.tokenizer))
        if not self.sources:
            raise UserError("sources is empty, but a corpus needs at least one source: add one")
        if self.max_length < 16:
            raise UserError(
                f"max_length is {self.max_length}, but a block holds at least 16 tokens: "
                "raise max_length"
            )
        if not 0 < self.held_out < 0.5:
            raise UserError(
                f"held_out is {self.held_out}, but it is a fraction between 0 and 0.5 (both "
                "excluded): 0.02 holds out one document in fifty"
            )
        if self.held_out_blocks < 1:
            raise UserError(
                f"held_out_blocks is {self.held_out_blocks}, but evaluation needs at least 1 "
                "block: raise it"
            )
        if self.vocab_size < 64:
            raise UserError(
                f"vocab_size is {self.vocab_size}, but a vocabulary needs at least 64 entries: "
                "raise it"
            )

    def check(self) -> None:
        """Raise UserError for a file that does not exist; no file is read."""
        for source in (*self.sources, *self.held_out_sources):
            source.check()


@dataclass(frozen=True)
class Engine:
    """How a corpus is prepared. The resulting blocks are the same, byte for byte."""

    kind: Literal["processes", "beam"] = "processes"
    """Processes of this machine, or Apache Beam."""

    _: KW_ONLY

    processes: int | None = None
    """Number of processes; None uses one per core and shard if the text is long, else one."""

    options: tuple[str, ...] = ()
    """Options of Beam, such as runner=FlinkRunner flink_master=host:8081."""

    def __post_init__(self) -> None:
        if isinstance(self.options, (str, list)):
            options = self.options.split() if isinstance(self.options, str) else self.options
            object.__setattr__(self, "options", tuple(options))
        if self.processes is not None and self.processes < 1:
            raise UserError(
                f"engine.processes is {self.processes}, but at least 1 process is needed: raise it"
            )
        if self.kind == "beam" and self.processes is not None:
            raise UserError(
                f"engine.processes is {self.processes}, but beam's runner has its own number: "
                "set it in engine.options"
            )
        if self.kind != "beam" and self.options:
            raise UserError(
                f"engine.options is {' '.join(self.options)}, but only beam has options: "
                "set engine.kind to beam"
            )


def _as_sources(sources: Any) -> Any:
    """Convert one source or path, or several, to a tuple of sources; others are returned as is."""
    if isinstance(sources, (str, os.PathLike, Source)):
        sources = (sources,)
    if isinstance(sources, Iterable) and not isinstance(sources, (bytes, dict)):
        return tuple(
            Source(os.fspath(source)) if isinstance(source, (str, os.PathLike)) else source
            for source in sources
        )
    return sources

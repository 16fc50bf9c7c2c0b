"""What a run reads: text sources, a vocabulary, and how text becomes blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flaxdistill.data.sources import Source
from flaxdistill.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """What a run reads: text sources, a vocabulary, and how text becomes blocks."""

    sources: tuple[Source, ...] = (Source(path="docstrings"),)
    # Explicit held-out text; empty: a share of the documents of `sources`.
    held_out_sources: tuple[Source, ...] = ()
    # That share, chosen by document hash, so exact duplicates land on the same side.
    held_out: float = 0.02
    # At most so many blocks are kept for evaluation; documents beyond them stay in training.
    held_out_blocks: int = 1024
    # What becomes of a document that stands, letter by letter, in the sources before: the manifest counts them either way.
    duplicates: Literal["drop", "keep"] = "keep"
    # Directory or file of an existing tokenizer; None: train a WordPiece vocabulary on `sources`.
    tokenizer: str | None = None
    # Entries, when a vocabulary is trained.
    vocab_size: int = 8192
    # Tokens per block, with [CLS] and [SEP].
    max_length: int = 128

    def __post_init__(self) -> None:
        if not self.sources:
            raise UserError("sources is empty, but a corpus needs at least one source: name one")
        if self.max_length < 16:
            raise UserError(
                f"max_length is {self.max_length}, but a block holds at least 16 tokens: raise max_length"
            )
        if not 0 < self.held_out < 0.5:
            raise UserError(
                f"held_out is {self.held_out}, but it is a share between 0 and 0.5 (both excluded): "
                "0.02 holds out one document in fifty"
            )
        if self.held_out_blocks < 1:
            raise UserError(
                f"held_out_blocks is {self.held_out_blocks}, but evaluation needs at least 1 block: raise it"
            )
        if self.vocab_size < 64:
            raise UserError(
                f"vocab_size is {self.vocab_size}, but a vocabulary needs at least 64 entries: raise it"
            )

    def check(self) -> None:
        """Raise UserError for a file that is not there; reads none."""
        for source in (*self.sources, *self.held_out_sources):
            source.check()


@dataclass(frozen=True, kw_only=True)
class Engine:
    """What turns text into blocks; these are the same, byte by byte, whatever does it."""

    kind: Literal["processes", "beam"] = "processes"
    processes: int | None = (
        None  # of this machine; None: one a core, where there are so many shards and the text is long
    )
    options: tuple[str, ...] = ()  # of beam, such as runner=FlinkRunner flink_master=host:8081

    def __post_init__(self) -> None:
        if self.processes is not None and self.processes < 1:
            raise UserError(
                f"engine.processes is {self.processes}, but somebody must do the work: raise it"
            )
        if self.kind == "beam" and self.processes is not None:
            raise UserError(
                f"engine.processes is {self.processes}, but beam's runner has its own number: give it in engine.options"
            )
        if self.kind != "beam" and self.options:
            raise UserError(
                f"engine.options is {' '.join(self.options)}, but only beam has options: set engine.kind to beam"
            )

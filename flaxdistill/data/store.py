"""The block store: a folder of packed blocks that is written once and read for ever."""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import importlib.metadata
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from flaxdistill.data.neardup import HeldOutIndex
from flaxdistill.data.pack import id_dtype, pack, segment_dtype
from flaxdistill.errors import UserError

if TYPE_CHECKING:
    from flaxdistill.data.corpus import Corpus
    from flaxdistill.data.sources import Shard
    from flaxdistill.data.tokenizer import Vocabulary

# Changes whenever the same corpus would give other bytes.
FORMAT = 1
MANIFEST = "manifest.json"


# --- reading ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Blocks:
    """The blocks of one source, or the held-out ones: rows spread over memory-mapped files."""

    ids: tuple[np.ndarray, ...]  # per file [rows, T] uint16 or uint32
    segments: tuple[np.ndarray, ...]  # per file [rows, T] uint8 or uint16
    first_id: int  # global id of the first block; ids are unique in the whole store

    def __len__(self) -> int:
        return int(self._ends[-1]) if self.ids else 0

    @cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum([len(ids) for ids in self.ids])

    @cached_property
    def _starts(self) -> np.ndarray:
        return self._ends - [len(ids) for ids in self.ids]

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The blocks at `rows` [n] (any order, 0 <= row < len(self)): ids [n, T] and segments [n, T]."""
        if len(self.ids) == 1:
            return self.ids[0].take(rows, axis=0), self.segments[0].take(rows, axis=0)
        # Sorted by file, so that one take per file fills one slice.
        file = np.searchsorted(self._ends, rows, side="right")
        order = np.argsort(file, kind="stable")
        local = (rows - self._starts[file])[order]
        ids = np.empty((len(rows), self.ids[0].shape[1]), self.ids[0].dtype)
        segments = np.empty(ids.shape, self.segments[0].dtype)
        begin = 0
        for number, count in enumerate(np.bincount(file).tolist()):
            if count:
                here = slice(begin, begin + count)
                # Anything but "raise" lets numpy write straight into `out`; the rows are known to exist.
                self.ids[number].take(local[here], axis=0, out=ids[here], mode="clip")
                self.segments[number].take(local[here], axis=0, out=segments[here], mode="clip")
                begin += count
        back = np.argsort(order)
        return ids.take(back, axis=0), segments.take(back, axis=0)


@dataclass(frozen=True, eq=False)
class Store:
    """A finished block store: training blocks of each source, held-out blocks, and their vocabulary."""

    path: Path
    manifest: dict[str, Any]
    train: tuple[Blocks, ...]
    held_out: Blocks

    @property
    def length(self) -> int:
        """Tokens per block."""
        return self.manifest["settings"]["length"]

    def vocabulary(self) -> Vocabulary:
        """The vocabulary that the blocks are written in, loaded from the store."""
        from flaxdistill.data.tokenizer import load_vocabulary

        return load_vocabulary(str(self.path))


def open_store(path: str | os.PathLike) -> Store:
    """Opens a store written by `prepare` without reading its blocks.

    Raises UserError when `path` is no store, or when a file does not have the size, shape and dtype that
    the manifest says.
    """
    path = Path(path)
    rebuild = "delete the folder and prepare the corpus again"
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        if manifest["format"] != FORMAT:
            raise UserError(
                f"{path} is a block store of format {manifest['format']}, but this version reads "
                f"format {FORMAT}: {rebuild}."
            )
        groups = [*(source["shards"] for source in manifest["train"]), [manifest["held_out"]]]
        blocks, first_id = [], 0
        for shards in groups:
            shards = [shard for shard in shards if shard["rows"]]
            ids = tuple(_mapped(path, shard["ids"], rebuild) for shard in shards)
            segments = tuple(_mapped(path, shard["segments"], rebuild) for shard in shards)
            blocks.append(Blocks(ids=ids, segments=segments, first_id=first_id))
            first_id += len(blocks[-1])
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{path} is not a block store, {error.filename} is missing: {rebuild}.") from error
    except OSError as error:
        raise UserError(
            f"{error.filename or path} cannot be read ({error.strerror}): free it or {rebuild}."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"the manifest of {path} is damaged ({error!r}): {rebuild}.") from error
    return Store(path=path, manifest=manifest, train=tuple(blocks[:-1]), held_out=blocks[-1])


def _mapped(folder: Path, entry: dict[str, Any], rebuild: str) -> np.ndarray:
    path = folder / entry["file"]
    size = path.stat().st_size
    if size != entry["bytes"]:
        raise UserError(f"{path} has {size} bytes, but its manifest says {entry['bytes']}: {rebuild}.")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UserError(f"{path} is not an array file ({error}): {rebuild}.") from error
    found, expected = (list(array.shape), array.dtype.name), (entry["shape"], entry["dtype"])
    if found != expected:
        raise UserError(
            f"{path} holds {found[0]} {found[1]}, but its manifest says {expected[0]} {expected[1]}: {rebuild}."
        )
    return array.view(np.ndarray)  # the same memory, without the cost of memmap's own indexing


# --- writing ------------------------------------------------------------------------------------------


def prepare(
    corpus: Corpus, directory: str | os.PathLike, *, report: Callable[[str], None] = lambda text: None
) -> Store:
    """Turns a corpus into blocks in a folder of its own below `directory`, or opens it if it is there.

    The folder is named after everything that changes its bytes: content of the sources, tokenizer, held-out
    settings and block length, but not the weights of the sources. Held-out documents are never trained on,
    and neither are training documents that nearly repeat one (they are counted in the manifest).
    `report` is told, in one line each, what has been done.
    """
    from flaxdistill.data.tokenizer import load_vocabulary

    directory = Path(directory)
    train = [source.shards() for source in corpus.sources]
    held_out = [shard for source in corpus.held_out_sources for shard in source.shards()]
    vocabulary = load_vocabulary(corpus.tokenizer) if corpus.tokenizer else None
    settings = _settings(corpus, train, held_out, vocabulary)
    fingerprint = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    final = directory / fingerprint
    if final.exists():
        store = open_store(final)
        report(
            f"reused {final}: {sum(map(len, store.train))} training and {len(store.held_out)} held-out blocks"
        )
        return store

    # Renamed when whole; until then the name begins with a dot and is nobody's fingerprint.
    temporary = directory / f".{fingerprint}-{uuid.uuid4().hex[:8]}"
    with _writing(temporary):
        temporary.mkdir(parents=True)
    try:
        manifest = _write_blocks(temporary, corpus, train, held_out, vocabulary, report)
        manifest = {"format": FORMAT, "fingerprint": fingerprint, "settings": settings} | manifest
        with _writing(temporary / MANIFEST), open(temporary / MANIFEST, "w") as file:
            file.write(json.dumps(manifest, indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.rename(temporary, final)
        except OSError as error:
            if not final.exists():
                raise UserError(f"{temporary} cannot be renamed to {final} ({error.strerror}).") from error
            # Another process was faster; its store has the same bytes.
            shutil.rmtree(temporary)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    store = open_store(final)
    report(
        f"wrote {final}: {sum(map(len, store.train))} training and {len(store.held_out)} held-out blocks, "
        f"{100 * store.manifest['padding']:.2f} % padding"
    )
    return store


def _write_blocks(
    folder: Path,
    corpus: Corpus,
    train: list[list[Shard]],
    held_out: list[Shard],
    vocabulary: Vocabulary | None,
    report: Callable[[str], None],
) -> dict[str, Any]:
    """Writes everything but the manifest, and returns what it says about blocks."""
    from flaxdistill.data.tokenizer import train_wordpiece

    pool = held_out if corpus.held_out_sources else [shard for shards in train for shard in shards]
    share = 1.0 if corpus.held_out_sources else corpus.held_out
    # No language writes 16 characters per token, so texts beyond that are never needed.
    texts, documents = _held_out_texts(pool, share, 16 * corpus.held_out_blocks * corpus.length)
    if not texts:
        raise UserError(
            f"no document is held out of {documents} with held_out {corpus.held_out}: "
            "add text, raise held_out or name held_out_sources."
        )
    if vocabulary is None:
        vocabulary = train_wordpiece(
            (d for shards in train for shard in shards for d in shard.documents() if _hash(d) not in texts),
            corpus.vocab_size,
        )
        report(f"trained a vocabulary of {vocabulary.size} entries")
    with _writing(folder):
        vocabulary.save(folder)
    writer = _BlockWriter(folder, vocabulary, corpus.length)

    chosen, ids = _first_held_out(texts, vocabulary, corpus)
    evaluation = writer.write("held_out", [ids], at_most=corpus.held_out_blocks) | {"documents": len(chosen)}
    if not evaluation["rows"]:
        raise UserError(
            f"the {len(chosen)} held-out documents (of {documents}) hold no token: "
            "add text, raise held_out or name held_out_sources."
        )
    report(f"held out {len(chosen)} documents: {evaluation['rows']} blocks")

    index = HeldOutIndex.of(ids)
    # Explicit held-out text is no part of the sources: what they repeat of it counts as near-duplicates.
    leave_out = set() if corpus.held_out_sources else chosen
    sources = []
    for number, (source, shards) in enumerate(zip(corpus.sources, train, strict=True)):
        entries = []
        for shard_number, shard in enumerate(shards):
            training = _TrainingDocuments(shard, vocabulary, index, leave_out)
            entry = writer.write(f"train-{number}-{shard_number:05d}", training)
            entries.append({"name": shard.name, "fingerprint": shard.fingerprint} | training.counts | entry)
            report(
                f"{source.path}, shard {shard_number + 1} of {len(shards)}: {entry['rows']} blocks of "
                f"{training.counts['documents']} documents, "
                f"{training.counts['near_duplicates']} near-duplicates dropped"
            )
        total = {key: sum(entry[key] for entry in entries) for key in (*_COUNTS, "rows")}
        if not total["rows"]:
            raise UserError(
                f"source {source.path} gives 0 training blocks: of its documents {total['held_out']} are held "
                f"out, {total['near_duplicates']} nearly repeat a held-out one and {total['documents']} are "
                "left: add text or leave the source out."
            )
        sources.append({"path": source.path, **total, "shards": entries})

    every = [evaluation, *(entry for source in sources for entry in source["shards"])]
    tokens, real_tokens = (sum(entry[key] for entry in every) for key in ("tokens", "real_tokens"))
    return {
        "tokens": tokens,
        "real_tokens": real_tokens,
        "padding": 1 - real_tokens / tokens,
        "tokenizer": {"digest": vocabulary.digest, "size": vocabulary.size},
        "versions": {name: importlib.metadata.version(name) for name in ("numpy", "tokenizers", "pyarrow")},
        "held_out": evaluation,
        "train": sources,
    }


def _settings(
    corpus: Corpus, train: list[list[Shard]], held_out: list[Shard], vocabulary: Vocabulary | None
) -> dict[str, Any]:
    """Everything that changes the bytes of the store."""
    settings: dict[str, Any] = {
        "format": FORMAT,
        "length": corpus.length,
        "held_out_blocks": corpus.held_out_blocks,
        "sources": [
            {
                "column": source.column,
                "split": source.split,
                "shards": [shard.fingerprint for shard in shards],
            }
            for source, shards in zip(corpus.sources, train, strict=True)
        ],
    }
    if corpus.held_out_sources:
        settings["held_out_sources"] = [
            {"column": source.column, "split": source.split} for source in corpus.held_out_sources
        ]
        settings["held_out_shards"] = [shard.fingerprint for shard in held_out]
    else:
        settings["held_out"] = corpus.held_out
    if vocabulary is None:
        settings["tokenizer"] = {"train": "wordpiece", "size": corpus.vocab_size}
    else:
        # Two tokenizers may list the same entries and still cut or lower-case text differently.
        probe = vocabulary.encode(["The Café's naïve tests: DON'T re-run 3.14% of un_tokenised 東京 x²!"])[0]
        settings["tokenizer"] = {"digest": vocabulary.digest, "probe": probe.tolist()}
    return settings


def _hash(document: str) -> int:
    return int.from_bytes(hashlib.blake2b(document.encode("utf-8", "surrogatepass"), digest_size=8).digest())


def _held_out_texts(shards: Iterable[Shard], share: float, characters: int) -> tuple[dict[int, str], int]:
    """The documents with the lowest hashes within `share`, up to some characters; and how many were looked at.

    Sorted by hash: a fair sample of all sources, and the same wherever a document stands.
    """
    texts: dict[int, str] = {}
    highest: list[int] = []  # a heap of the negated hashes
    kept = documents = 0
    for shard in shards:
        for document in shard.documents():
            documents += 1
            key = _hash(document)
            if key >= share * 2**64 or key in texts or not document.strip():
                continue
            texts[key] = document
            kept += len(document)
            heapq.heappush(highest, -key)
            while kept - len(texts[-highest[0]]) >= characters:
                kept -= len(texts.pop(-heapq.heappop(highest)))
    return {key: texts[key] for key in sorted(texts)}, documents


def _first_held_out(
    texts: dict[int, str], vocabulary: Vocabulary, corpus: Corpus
) -> tuple[set[int], list[np.ndarray]]:
    """As many of the candidate documents as fill the held-out blocks: their hashes and their token ids."""
    documents = [ids for batch in _batched(texts.values()) for ids in vocabulary.encode(batch)]
    enough = corpus.held_out_blocks * (corpus.length - 2)  # no block holds more tokens of documents
    count = int(np.searchsorted(np.cumsum([len(ids) for ids in documents]), enough)) + 1
    return set(list(texts)[:count]), documents[:count]


def _batched(documents: Iterable[str]) -> Iterator[list[str]]:
    """Documents in lists large enough for the tokenizer's threads and small enough for flat memory."""
    batch, characters = [], 0
    for document in documents:
        batch.append(document)
        characters += len(document)
        if len(batch) == 2000 or characters > 2_000_000:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


_COUNTS = ("documents", "held_out", "near_duplicates")


class _TrainingDocuments:
    """The token ids of a shard's training documents in batches, counting what is left out on the way."""

    def __init__(self, shard: Shard, vocabulary: Vocabulary, index: HeldOutIndex, held_out: set[int]) -> None:
        self.shard, self.vocabulary, self.index, self.held_out = shard, vocabulary, index, held_out
        self.counts = dict.fromkeys(_COUNTS, 0)

    def __iter__(self) -> Iterator[list[np.ndarray]]:
        for batch in _batched(self.shard.documents()):
            kept = [document for document in batch if _hash(document) not in self.held_out]
            documents = self.vocabulary.encode(kept)
            near = self.index.near_duplicates(documents)
            self.counts["held_out"] += len(batch) - len(kept)
            self.counts["near_duplicates"] += int(near.sum())
            self.counts["documents"] += len(kept) - int(near.sum())
            yield [document for document, drop in zip(documents, near, strict=True) if not drop]


@dataclass(frozen=True)
class _BlockWriter:
    folder: Path
    vocabulary: Vocabulary
    length: int

    def write(
        self, name: str, batches: Iterable[Sequence[np.ndarray]], at_most: int | None = None
    ) -> dict[str, Any]:
        """Packs documents into `<name>.npy` and `<name>-segments.npy`; returns their entry in the manifest."""
        # Plain arrays, because training reads single rows in random order: from ArrayRecord that costs 32 us
        # a row, a gather from a memory-mapped array 0.6 us.
        v = self.vocabulary
        rows = real_tokens = 0
        ids_path, segments_path = self.folder / f"{name}.npy", self.folder / f"{name}-segments.npy"
        with (
            _ArrayFile(ids_path, self.length, id_dtype(v.size)) as ids_file,
            _ArrayFile(segments_path, self.length, segment_dtype(self.length)) as segments_file,
        ):
            for ids, segments in pack(
                batches, length=self.length, cls=v.cls, sep=v.sep, pad=v.pad, vocab_size=v.size
            ):
                if at_most is not None:
                    ids, segments = ids[: at_most - rows], segments[: at_most - rows]
                rows += len(ids)
                real_tokens += int(np.count_nonzero(segments))
                ids_file.append(ids)
                segments_file.append(segments)
        return {
            "rows": rows,
            "tokens": rows * self.length,
            "real_tokens": real_tokens,
            "ids": ids_file.entry(),
            "segments": segments_file.entry(),
        }


class _ArrayFile:
    """A .npy file [rows, length] that grows by blocks of rows, so that memory stays flat."""

    def __init__(self, path: Path, length: int, dtype: np.dtype) -> None:
        self.path, self.length, self.dtype, self.rows = path, length, dtype, 0

    def __enter__(self) -> Self:
        with _writing(self.path):
            self.file = open(self.path, "wb")
            self._header()
        return self

    def append(self, array: np.ndarray) -> None:
        with _writing(self.path):
            self.file.write(np.ascontiguousarray(array).data)
        self.rows += len(array)

    def __exit__(self, *error: object) -> None:
        with _writing(self.path), self.file:
            if error[0] is None:
                self.file.seek(0)
                self._header()
                self.file.flush()
                os.fsync(self.file.fileno())

    def _header(self) -> None:
        # numpy leaves room in the header for the first axis to grow, so the final one fits over the first.
        header = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.rows, self.length)}
        np.lib.format.write_array_header_1_0(self.file, header)

    def entry(self) -> dict[str, Any]:
        with open(self.path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {
            "file": self.path.name,
            "shape": [self.rows, self.length],
            "dtype": self.dtype.name,
            "bytes": self.path.stat().st_size,
            "sha256": digest,
        }


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{error.filename or path} cannot be written ({error.strerror or error}): make room or choose another folder."
        ) from error

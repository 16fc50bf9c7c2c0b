"""The two passes over a shard of text: functions from a shard to the files of a folder."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flaxdistill.data.array_file import write_errors
from flaxdistill.data.preparation.block_writer import block_writer
from flaxdistill.data.preparation.duplicates import hash_writer, read_duplicates
from flaxdistill.data.preparation.folders import FACTS_FILE
from flaxdistill.data.preparation.held_out import Candidates, TrainingDocuments, document_hash
from flaxdistill.data.preparation.near_duplicates import HeldOutIndex
from flaxdistill.data.sources import Shard
from flaxdistill.data.tokenizer import Vocabulary, load_vocabulary
from flaxdistill.runtime import gcs

HELD_OUT = "held_out"
BLOCKS = "blocks"
DUPLICATES = "duplicates"


def survey(shard: Shard, fraction: float, characters: int, folder: Path) -> dict[str, Any]:
    """Hash all documents of a shard, and store the candidates for the held-out documents."""
    candidates = Candidates(fraction, characters)
    with hash_writer(folder) as hashes:
        for document in shard.documents():
            key = document_hash(document)
            hashes.add(key)
            candidates.add(key, document)
    with write_errors(folder), open(folder / "candidates.jsonl", "w") as file:
        file.writelines(json.dumps(document) + "\n" for document in candidates.sorted().values())
    return {"documents": hashes.hashes.rows}


def read_candidates(survey: Path) -> list[str]:
    """Read the candidates that a survey stored."""
    with open(survey / "candidates.jsonl") as file:
        return [json.loads(line) for line in file]


@dataclass(frozen=True, eq=False)
class Plan:
    """What the second pass needs to know about all shards."""

    vocabulary: Vocabulary
    index: HeldOutIndex
    leave_out: frozenset[int]  # hashes of the documents of the sources that are held out


def write_plan(
    folder: Path, vocabulary: Vocabulary, held_out: Sequence[np.ndarray], leave_out: set[int]
) -> None:
    """Write a plan; ``held_out`` are the token ids of the held-out documents, int32 [n] each."""
    with write_errors(folder):
        vocabulary.save(folder)
        np.save(folder / "documents.npy", np.concatenate([*held_out, np.zeros(0, np.int32)]))
        np.save(folder / "lengths.npy", np.array([len(ids) for ids in held_out], np.int64))
        np.save(folder / "leave_out.npy", np.array(sorted(leave_out), np.uint64))


@functools.lru_cache(maxsize=1)
def read_plan(folder: Path) -> Plan:
    """Read a plan, once per process."""
    gcs.download(folder, FACTS_FILE)
    flat, lengths, leave_out = (
        np.load(folder / f"{name}.npy", allow_pickle=False)
        for name in ("documents", "lengths", "leave_out")
    )
    held_out = np.split(flat, np.cumsum(lengths)[:-1])
    return Plan(load_vocabulary(folder), HeldOutIndex.of(held_out), frozenset(leave_out.tolist()))


def pack_shard(
    shard: Shard, number: int, plan_folder: Path, length: int, drop: bool, folder: Path
) -> dict[str, Any]:
    """Pack the training documents of a shard, the ``number``-th, into blocks of ``length``."""
    plan = read_plan(plan_folder)
    duplicates = read_duplicates(plan_folder / DUPLICATES, number)
    documents = TrainingDocuments(
        shard, plan.vocabulary, plan.index, plan.leave_out, duplicates, drop
    )
    with block_writer(folder, BLOCKS, plan.vocabulary, length) as writer:
        totals = writer.write(documents)
    with write_errors(folder):
        np.save(folder / f"{BLOCKS}-counts.npy", writer.counts)
    return {"name": shard.name, "fingerprint": shard.fingerprint} | documents.counts | totals

"""The manifest of a store, as far as it describes the store as a whole."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np

from flaxdistill.data.array_file import ArrayFile
from flaxdistill.data.tokenizer import Vocabulary


def store_manifest(
    folder: Path,
    vocabulary: Vocabulary,
    counts: np.ndarray,
    held_out: dict[str, Any],
    train: list[dict[str, Any]],
) -> dict[str, Any]:
    """Write the token counts of the training blocks and return the manifest of a store.

    ``counts`` are occurrences of each token id, int64 [V]; ``held_out`` and ``train`` are the
    manifest entries of the held-out blocks and of each source.
    """
    with ArrayFile(folder / "counts.npy", (), counts.dtype) as counts_file:
        counts_file.append(counts)
    tokens, real_tokens = (
        sum(entry[key] for entry in (held_out, *train)) for key in ("tokens", "real_tokens")
    )
    return {
        "tokens": tokens,
        "real_tokens": real_tokens,
        "padding": 1 - real_tokens / tokens,
        "tokenizer": {"digest": vocabulary.digest, "size": vocabulary.size},
        "versions": {
            name: importlib.metadata.version(name) for name in ("numpy", "tokenizers", "pyarrow")
        },
        "held_out": held_out,
        "train": train,
        "counts": counts_file.manifest_entry(),
    }

"""The split of a text corpus: its held-out blocks, vocabulary and duplicates, from the surveys."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from flaxdistill.data.corpus import Corpus
from flaxdistill.data.preparation.block_writer import block_writer
from flaxdistill.data.preparation.duplicates import find_duplicates
from flaxdistill.data.preparation.folders import TextCallback, read_facts
from flaxdistill.data.preparation.held_out import Candidates, document_hash, first_tokens
from flaxdistill.data.preparation.passes import DUPLICATES, HELD_OUT, read_candidates, write_plan
from flaxdistill.data.sources import Shard
from flaxdistill.data.tokenizer import Vocabulary
from flaxdistill.data.wordpiece import train_wordpiece
from flaxdistill.errors import UserError


def max_held_out_characters(corpus: Corpus) -> int:
    """Return how many characters suffice for the held-out blocks."""
    # No language has 16 characters per token, so text beyond that is never needed.
    return 16 * corpus.held_out_blocks * corpus.max_length


def split_corpus(
    corpus: Corpus,
    train: list[list[Shard]],
    surveys: list[Path],
    vocabulary: Vocabulary | None,
    report: TextCallback,
    folder: Path,
) -> dict[str, Any]:
    """Write the plan of the second pass and the held-out blocks; return their manifest entry.

    ``surveys`` are the folders of the shards of ``train``, then of the held-out sources. Without
    ``vocabulary``, one is trained on the training documents.
    """
    shards = sum(map(len, train))
    texts, documents = _select_held_out(corpus, surveys[:shards], surveys[shards:])
    if vocabulary is None:
        training = (document for own in train for shard in own for document in shard.documents())
        vocabulary = train_wordpiece(
            (d for d in training if document_hash(d) not in texts), corpus.vocab_size
        )
        report(f"trained a vocabulary of {vocabulary.size} entries")

    # A block holds at most this many tokens of documents.
    tokens = corpus.held_out_blocks * (corpus.max_length - 2)
    hashes, ids = first_tokens(texts, vocabulary, tokens)
    with block_writer(folder, HELD_OUT, vocabulary, corpus.max_length) as writer:
        evaluation: dict[str, Any] = writer.write([ids], max_blocks=corpus.held_out_blocks)
    evaluation |= writer.manifest_entries() | {"documents": len(hashes)}
    if not evaluation["rows"]:
        raise UserError(
            f"the {len(hashes)} held-out documents (of {documents}) hold no token: "
            "add text, raise held_out or set held_out_sources"
        )
    report(f"held out {len(hashes)} documents: {evaluation['rows']} blocks")
    # Explicit held-out text is not part of the sources: its repetitions there count as
    # near-duplicates.
    write_plan(folder, vocabulary, ids, set() if corpus.held_out_sources else hashes)
    duplicates = sum(find_duplicates(surveys[:shards], folder / DUPLICATES))
    if duplicates:
        action = (
            "left out"
            if corpus.duplicates == "drop"
            else "trained on; --corpus.duplicates drop leaves them out"
        )
        report(f"{duplicates} documents of the sources repeat an earlier one: {action}")
    return evaluation


def _select_held_out(
    corpus: Corpus, train: list[Path], held_out: list[Path]
) -> tuple[dict[int, str], int]:
    """Return the candidates by hash, and the number of documents they are chosen from."""
    pool = held_out or train
    candidates = Candidates(1.0 if held_out else corpus.held_out, max_held_out_characters(corpus))
    for document in itertools.chain.from_iterable(map(read_candidates, pool)):
        candidates.add(document_hash(document), document)
    texts, documents = candidates.sorted(), sum(read_facts(part)["documents"] for part in pool)
    if not texts:
        raise UserError(
            f"no document is held out of {documents} with held_out {corpus.held_out}: "
            "add text, raise held_out or set held_out_sources"
        )
    return texts, documents

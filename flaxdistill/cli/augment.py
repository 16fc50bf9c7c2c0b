"""``flaxdistill augment``."""

from __future__ import annotations

from flaxdistill.cli.arguments import OutputPath, SourcePath
from flaxdistill.runtime import gcs, gcs_paths


def augment(
    source: SourcePath,
    out: OutputPath,
    model: str,
    column: str = "text",
    pair: str | None = None,
    label: str | None = None,
    header: str = "",
    split: str = "train",
    glove: str | None = None,
    stop_words: str | None = None,
    variants: int = 20,
    candidates: int = 15,
    probability: float = 0.4,
    length: int = 256,
    batch_size: int = 256,
    seed: int = 0,
) -> int:
    """Write every row of a source with variants in which words are replaced, as TinyBERT does.

    Run the same command again to resume.

    Args:
        source: file, folder, hf:NAME or tfds:NAME
        out: folder for jsonl files with the same columns; a config can use it as a source
        model: directory or Hub id of a masked LM, which proposes replacements
        column: column of the text
        pair: column of the second text
        label: column of the label, which variants copy
        header: column names of a csv or tsv file without a header line
        split: split of a dataset
        glove: text file of word vectors; proposes replacements of words that the vocabulary splits
        stop_words: text file of words that are never replaced, one a line; an empty file for none;
            TinyBERT's English list by default
        variants: variants of every text; of a pair, one text is changed at a time
        candidates: number of proposals, one of which is drawn
        probability: probability that a word is replaced
        length: tokens that the model reads: half for the masked text, half for the original
        batch_size: masked texts per batch
        seed: random seed
    """
    from flaxdistill.data.sources import Source
    from flaxdistill.experiment.run_models import read_model
    from flaxdistill.inference import augment as augmentation
    from flaxdistill.runtime import compilation_cache

    def report(line: str) -> None:
        print(gcs_paths.display(line))

    compilation_cache.enable()
    rows = Source(path=source, column=column, pair=pair, label=label, header=header, split=split)
    options = augmentation.Augmentation(
        source=rows,
        glove=glove,
        stop_words=stop_words,
        variants=variants,
        candidates=candidates,
        probability=probability,
        length=length,
        batch_size=batch_size,
        seed=seed,
    )
    augmentation.augment(options, read_model(model), gcs.local_copy(out, bool), report=report)
    return 0

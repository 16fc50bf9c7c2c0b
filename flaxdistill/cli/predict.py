"""``flaxdistill predict``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from flaxdistill.cli.arguments import ModelPath, Texts
from flaxdistill.errors import UserError

if TYPE_CHECKING:
    from flaxdistill.data.sources import Example


def predict(
    model: ModelPath,
    texts: Texts = (),
    pair: str | None = None,
    data: str | None = None,
    column: str | None = None,
    header: str | None = None,
    split: str | None = None,
    top: int = 5,
    unanswerable: bool = False,
    null_threshold: float = 0.0,
    length: int | None = None,
    batch_size: int = 32,
    dtype: Literal["auto", "bfloat16", "float32"] = "float32",
) -> int:
    """Predict classes, numbers, entities, answer spans or masked words, by the model's head.

    Prints one JSON object per line. Without texts and --data, reads one text per line from standard
    input; a second text, such as the context of a question, follows a tab.

    Args:
        model: directory, Hub id or run
        texts: texts, or questions
        pair: second text of all texts; with --data, its column
        data: file, folder, hf:NAME or tfds:NAME of texts
        column: column of the text in --data; for an entity model it may hold lists of words
        header: column names of a csv or tsv file without a header line
        split: split of a dataset, such as test
        top: number of classes, spans and words to print, the most likely first
        unanswerable: allow no answer, for a model trained on SQuAD 2
        null_threshold: margin of the no-answer score over the best span, such as eval's best one
        length: tokens per text, longer ones are truncated; by default 512 or the model's maximum
        batch_size: texts per batch
        dtype: dtype of the computation; auto is bfloat16 where the hardware multiplies it
    """
    from flaxdistill.experiment import run_models
    from flaxdistill.inference import predictor
    from flaxdistill.runtime import compilation_cache

    if texts and data:
        raise UserError("give texts or --data, not both")
    examples = _examples(texts, pair, data, column, header, split)
    compilation_cache.enable()
    predict_examples = predictor.make_predict(
        run_models.read_model(model),
        length=length,
        batch_size=batch_size,
        dtype=dtype,
        top=top,
        unanswerable=unanswerable,
        null_threshold=null_threshold,
    )
    for example, answer in predict_examples(examples):
        second = {"pair": example.pair} if example.paired else {}
        print(json.dumps({"text": example.text} | second | answer, ensure_ascii=False), flush=True)
    return 0


def _examples(
    texts: tuple[str, ...],
    pair: str | None,
    data: str | None,
    column: str | None,
    header: str | None,
    split: str | None,
) -> Iterable[Example]:
    from flaxdistill.data.sources import Source, source_fields
    from flaxdistill.inference.examples import make_examples, read_examples

    fields = source_fields(data, column=column, header=header, split=split)
    if texts:
        return make_examples(texts, pair)
    if data:
        source = Source(path=data, pair=pair, **fields)
        return (example for shard in source.labelled() for example in shard.documents())
    return read_examples(sys.stdin.buffer, pair)

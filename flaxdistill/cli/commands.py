"""The verbs that take flags and no config. Nothing heavy is imported before one needs it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import tyro

from flaxdistill.errors import UserError
from flaxdistill.runtime import gcs, gcs_paths

_WORKDIR = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="WORKDIR")]
_OUT = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
_IN = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="IN")]
_SOURCE = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
_PATH_OR_ID = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PATH_OR_ID")]


def evaluate(
    workdir: _WORKDIR,
    model: str | None = None,
    against: str | None = None,
    data: str | None = None,
    column: str | None = None,
    pair: str | None = None,
    label: str | None = None,
    split: str | None = None,
    header: str | None = None,
    layers: bool = False,
) -> int:
    """Evaluate a run's student, or another model, on the run's held-out rows or on others.

    Args:
        workdir: the folder of the run
        model: a directory or Hub id to evaluate instead of the student
        against: another run, directory or Hub id, to tell the difference from, with its 95 % interval on labelled rows
        data: a labelled file, folder or hf:NAME to evaluate on, with the columns of the run's own held-out rows
        column: the field of the text in --data, where it is another one
        pair: the field of the second text in --data
        label: the field of the label in --data
        split: the part of a dataset in --data
        header: names of the columns in --data where the file does not begin with them; '' where it does
        layers: tell instead how alike its layers and the teacher's are: linear CKA, and cosines where widths are equal
    """
    from flaxdistill import terminal
    from flaxdistill.experiment import evaluate as evaluation
    from flaxdistill.runtime import compilation_cache

    compilation_cache.keep()
    workdir = gcs.local(workdir, gcs.RUN)
    fields = {"column": column, "pair": pair, "label": label, "split": split, "header": header}
    if layers and (against or data or any(told is not None for told in fields.values())):
        raise UserError(
            "--layers looks at the run's own rows and teacher; leave --against, --data and what is theirs out"
        )
    if layers:
        for title, values in evaluation.align(workdir, model).items():
            terminal.console().print(terminal.heat(title, values))
        return 0
    rows = evaluation.evaluate(workdir, model, against=against, data=data, report=_tell, **fields)
    rows = [row | {"name": gcs_paths.told(row["name"])} for row in rows]
    for table in terminal.evaluations(rows):
        terminal.console().print(table)
    return 0


def report(
    workdirs: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="WORKDIR [WORKDIR ...]")
    ],
    out: Path,
    times: int = 5,
) -> int:
    """Tell what runs have kept of their teachers: a page of tables and plots, the plots as PNG, and all of it as JSON.

    Args:
        workdirs: folders of runs, or of a config's stages
        out: the page, such as report.html; report.json and the folder report come beside it
        times: turns in which models are timed on this machine; 0 leaves speeds out
    """
    from flaxdistill import terminal
    from flaxdistill.report.page import verdicts
    from flaxdistill.report.write import write_report
    from flaxdistill.runtime import compilation_cache

    compilation_cache.keep()
    if not workdirs:
        raise UserError(
            "no WORKDIR is given; name the --workdir of a run, or of a config with stages"
        )
    shown = terminal.console()
    facts = write_report(workdirs, out, times=times, report=_tell)
    models = facts.models()
    shown.print(terminal.results([model.row() for model in models]))
    if times:
        shown.print(terminal.speeds({model.name: model.milliseconds for model in models}))
    for line in verdicts(facts):
        _tell(line)
    _tell(f"wrote {out}, {out.with_suffix('.json')} and {out.with_suffix('')}/")
    return 0


def augment(
    source: _SOURCE,
    out: _OUT,
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
    share: float = 0.4,
    length: int = 256,
    batch_size: int = 256,
    seed: int = 0,
) -> int:
    """Write every row of a source and variants of it with other words, as TinyBERT does; the same command goes on.

    Args:
        source: a file, folder, hf:NAME or tfds:NAME
        out: a folder for jsonl files with the same columns, which is then a source itself
        model: a directory or Hub id of a masked-LM, whose likeliest words take the place of words
        column: the field of the text
        pair: the field of the second text
        label: the field of the label, which variants share
        header: names of the columns of a csv or tsv file that does not begin with them
        split: of a data set
        glove: a text file of word vectors, whose neighbours take the place of words that the vocabulary splits
        stop_words: a text file of words that stay (an empty one: none); by default TinyBERT's English ones
        variants: of every text of a row; of a pair each is varied beside the other as it was
        candidates: words among which one is drawn
        share: of the words that are replaced
        length: tokens that the model reads: half for the text without the word, half for the whole one
        batch_size: masked texts at one time
        seed: of the draws
    """
    from flaxdistill.data.sources import Source
    from flaxdistill.experiment.workdir import read_model
    from flaxdistill.inference import augment as augmentation
    from flaxdistill.runtime import compilation_cache

    compilation_cache.keep()
    rows = Source(path=source, column=column, pair=pair, label=label, header=header, split=split)
    how = augmentation.Augmentation(
        source=rows,
        glove=glove,
        stop_words=stop_words,
        variants=variants,
        candidates=candidates,
        share=share,
        length=length,
        batch_size=batch_size,
        seed=seed,
    )
    augmentation.augment(how, read_model(model), gcs.local(out, bool), report=_tell)
    return 0


def predict(
    model: _PATH_OR_ID,
    texts: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[TEXT ...]")
    ] = (),
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
    """Answer texts: words for masks, classes, numbers, entities or spans, whatever the model's head is for.

    One JSON object a line, as they are known. Without texts and --data it reads a text on each line of the standard input,
    and behind a tab the second text, such as the one that a question is about.

    Args:
        model: a directory, Hub id or run
        texts: texts, or questions
        pair: the second text of each; with --data the field that holds it
        data: a file, folder, hf:NAME or tfds:NAME of texts
        column: the field of the text in --data: text, or for a model of entities lists of words too
        header: names of the columns of a csv or tsv file that does not begin with them
        split: of a data set: train, or another
        top: classes, spans and words that are told, likeliest first
        unanswerable: let a model that was trained on questions without answers say that there is none
        null_threshold: how far the score of no answer must be above the best span's, such as eval's best one
        length: tokens of a text that the model sees; 512 or as many as it can read
        batch_size: texts at one time
        dtype: of the arithmetic; auto is bfloat16 wherever the hardware multiplies it
    """
    import json

    from flaxdistill.data.sources import Source, given
    from flaxdistill.experiment import workdir
    from flaxdistill.inference import answers, predictor
    from flaxdistill.runtime import compilation_cache

    if texts and data:
        raise UserError("give texts or --data, not both")
    told = given(data, column=column, header=header, split=split)
    compilation_cache.keep()
    if texts:
        examples = answers.examples_of(texts, pair)
    elif data:
        source = Source(path=data, pair=pair, **told)
        examples = (example for shard in source.labelled() for example in shard.documents())
    else:
        examples = answers.lines(sys.stdin.buffer, pair)
    answer = predictor.make_predict(
        workdir.read_model(model),
        length=length,
        batch_size=batch_size,
        dtype=dtype,
        top=top,
        unanswerable=unanswerable,
        null_threshold=null_threshold,
    )
    for example, said in answer(examples):
        second = {"pair": example.pair} if example.paired else {}
        print(json.dumps({"text": example.text} | second | said, ensure_ascii=False), flush=True)
    return 0


def export(
    workdir: _WORKDIR,
    out: _OUT,
    stablehlo: bool = False,
    push: str | None = None,
    private: bool = False,
) -> int:
    """Write a run's student as a Hugging Face checkpoint; a process of its own must then say what the student says.

    Args:
        workdir: the folder of the run
        out: a directory that does not exist yet
        stablehlo: add model.stablehlo, which jax calls without this package, on CPUs, GPUs and TPUs
        push: a repository USER/REPO on the Hub, to commit the same files to, by HF_TOKEN or the token of hf auth login
        private: make that repository a private one
    """
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # chips that are here may be at work for a run
    if private and not push:
        raise UserError("--private says how to --push; give --push USER/REPO, or leave it out")

    from flaxdistill.api.export import export as write
    from flaxdistill.hub.push import Repo
    from flaxdistill.runtime import compilation_cache

    compilation_cache.keep()
    repo = Repo(push, private) if push is not None else None
    run = gcs.local(workdir, gcs.RUN)
    print(
        gcs_paths.told(write(run, gcs_paths.here(out), apart=True, portable=stablehlo, push=repo))
    )
    return 0


def convert(source: _IN, out: _OUT) -> int:
    """Convert a Hugging Face directory or Hub model into an orbax checkpoint, or such a checkpoint back.

    Args:
        source: a directory or Hub id
        out: a directory that does not exist yet
    """
    # Nothing is computed, and chips that are here may be at work for a run.
    os.environ["JAX_PLATFORMS"] = "cpu"

    from flaxdistill.hub.convert import convert as write

    print(gcs_paths.told(write(source, gcs_paths.here(out))))
    return 0


def inspect(what: _PATH_OR_ID) -> int:
    """Show a model, a run or a store of blocks.

    Args:
        what: a directory or Hub id
    """
    from flaxdistill import terminal
    from flaxdistill.cli import inspection

    shown = terminal.console()
    for title, section in inspection.inspect(what).items():
        shown.print(terminal.listing(gcs_paths.told(title), section))
    return 0


def _tell(line: str) -> None:
    print(gcs_paths.told(line))


PLAIN: dict[str, Callable[..., int]] = {
    "eval": evaluate,
    "predict": predict,
    "report": report,
    "augment": augment,
    "export": export,
    "convert": convert,
    "inspect": inspect,
}

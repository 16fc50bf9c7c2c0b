"""From an Experiment to live objects: the one file where data, models, losses and optimiser meet."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flaxdistill import feed, sharding, workdir
from flaxdistill.data.prepare import prepare
from flaxdistill.data.rows import Order
from flaxdistill.data.store import Store
from flaxdistill.data.tokenizer import Vocabulary, load_vocabulary
from flaxdistill.errors import UserError
from flaxdistill.experiment import Experiment, Student
from flaxdistill.families import family as find_family
from flaxdistill.families.base import Family
from flaxdistill.hub import Model
from flaxdistill.losses.base import Loss
from flaxdistill.losses.cosine import Cosine
from flaxdistill.losses.vocab import VocabReport
from flaxdistill.models.config import EncoderConfig
from flaxdistill.models.encoder import make_apply, make_init, shapes_of
from flaxdistill.ops.dense import DType, operand_dtype
from flaxdistill.pytrees import Params
from flaxdistill.student import start_from
from flaxdistill.tasks.mlm import MLM
from flaxdistill.train.checkpoint import Checkpoints
from flaxdistill.train.evaluate import make_evaluate
from flaxdistill.train.log import Log
from flaxdistill.train.loop import Run
from flaxdistill.train.state import make_state
from flaxdistill.train.step import Apply, make_step

EVAL_SEED = 20190810
"""Held-out masks are the same in every run, for every seed and every model of one vocabulary: losses compare."""

Report = Callable[[str], None]


def build(experiment: Experiment, path: Path, *, data: Path, report: Report) -> Run:
    """Make everything a run needs and make ``path`` its own; restores the newest checkpoint there.

    Blocks are kept in ``data`` where the experiment does not say.

    Raises UserError, before anything is written into ``path`` but prepared blocks, for whatever does not fit together.
    """
    e = experiment
    mesh = sharding.make_mesh(e.fsdp)
    sharding.check_batch(e.batch_size, e.accumulate, mesh)
    teacher = read(e.teacher.path, path, report) if e.teacher else None
    start_path = e.start_path()
    same = e.teacher and start_path == e.teacher.path
    start = teacher if same else read(start_path, path, report) if start_path else None
    judge = read(e.judge, path, report) if e.judge else None
    model = teacher or judge
    store = prepare_blocks(e, data, start or model, report)
    vocabulary = store.vocabulary()
    for other in (teacher, judge, start):
        if other is not None:
            check_vocabulary(other, vocabulary)
    family, config = student_config(e.student, start or model, vocabulary.size)
    _check_losses(e)
    check_compared("the student", config, model, store.length)

    teacher_applies, teacher_params = fixed(teacher, e.teacher.dtype if e.teacher else "float32", mesh)
    judge_applies, judge_params = (
        (teacher_applies, teacher_params) if teacher else fixed(judge, "float32", mesh)
    )
    # Even numbers for masks, odd ones for dropout: the two must never share a key.
    prepare_batch = e.task.make_prepare(
        mask_id=vocabulary.mask,
        special_ids=vocabulary.special_ids,
        counts=store.counts(),
        seed=2 * e.seed,
    )
    encode = make_apply(config, e.student.dtype)
    drops = config.dropout > 0 or config.attention_dropout > 0
    tx = e.optim.build(e.steps)
    losses_params = _init_losses(e, encode, teacher_applies, config, teacher_params, store.length)

    copied = start if e.student.start.layers != "random" else None

    def init(
        start_params: Params,
    ) -> Any:  # an argument: what a compiled function closes over, it holds as constants
        student = make_init(config)(jax.random.key(e.seed))
        if copied is not None:
            student = start_from(e.student.start, copied.config, start_params, config, student)
        return make_state({"student": student, "losses": losses_params}, tx)

    start_params = copied.params if copied else {}
    shapes = jax.eval_shape(init, start_params)
    shardings = sharding.state_shardings(shapes, mesh)
    step = make_step(
        lambda params, batch: encode(params, batch, batch.keys(2 * e.seed + 1) if drops else None),
        teacher_applies,
        prepare_batch,
        e.losses,
        tx,
        e.accumulate,
    )
    inputs = {"blocks": store.path.name} | {
        name: other.digest
        for name, other in (("teacher", teacher), ("start", start), ("judge", judge))
        if other
    }
    workdir.claim(path, e, family, config, inputs, vocabulary)
    checkpoints = Checkpoints(path)
    latest = checkpoints.latest()
    if latest is None:
        if workdir.is_workdir(path) and (path / "metrics.jsonl").exists():
            report(f"{path} has no complete checkpoint; starts again from step 0")
        state = jax.jit(init, out_shardings=shardings)(start_params)
    else:
        state = checkpoints.restore(latest, shapes, shardings)
        report(f"goes on from step {latest} of {e.steps}")
    return Run(
        mesh=mesh,
        step=sharding.jit_step(step, shardings, mesh),
        evaluate=make_evaluator(config, e.student.dtype, model, judge_applies, vocabulary, mesh),
        state=state,
        teacher_params=teacher_params,
        judge_params=judge_params,
        train_batch=feed.train_batches(
            store.train,
            Order(tuple(map(len, store.train)), tuple(source.weight for source in e.corpus.sources), e.seed),
            e.batch_size,
            mesh,
            step=int(state.step),
            next_index=int(state.next_index),
        ),
        eval_batches=lambda: feed.held_out_batches(store.held_out, e.eval_batch_size, mesh),
        rate=e.optim.schedule(e.steps),
        checkpoints=checkpoints,
        log=Log(path, step=latest or 0, writes=jax.process_index() == 0),
        steps=e.steps,
        log_every=e.log_every,
        eval_every=e.eval_every,
        save_every=e.save_every,
    )


def prepare_blocks(e: Experiment, data: Path, model: Model | None, report: Report) -> Store:
    """Prepare the corpus of an experiment, with the vocabulary of ``model`` where the config names none."""
    corpus, folder = e.corpus, Path(e.data_dir) if e.data_dir else data
    if corpus.tokenizer is None and model is not None:
        # An earlier stage that trained its vocabulary on this very corpus has left blocks that fit as they are,
        # unless the text has changed since.
        if workdir.trained_on(model, corpus):
            store = prepare(corpus, folder, report=report)
            if store.vocabulary().digest == load_vocabulary(model.directory).digest:
                return store
        corpus = dataclasses.replace(corpus, tokenizer=str(model.directory))
    return prepare(corpus, folder, report=report)


def student_config(student: Student, like: Model | None, vocab_size: int) -> tuple[Family, EncoderConfig]:
    """Settle the student's family and sizes; raises UserError naming what neither the config nor a model says."""
    names = ("num_layers", "hidden_size", "num_heads", "intermediate_size", "max_positions")
    sizes = {name: getattr(student, name) for name in names}
    family = find_family(student.family or (like.family.model_type if like else "bert"))
    if like is None:
        missing = [
            f"student.{name}" for name, size in sizes.items() if size is None and name != "max_positions"
        ]
        if missing:
            raise UserError(f"{', '.join(missing)} must be given: there is no model to take the sizes from")
        base = EncoderConfig(vocab_size=vocab_size, **{n: s for n, s in sizes.items() if s is not None})
    else:
        half = (like.config.num_layers + 1) // 2
        base = dataclasses.replace(like.config, num_layers=half, pooler=False, mlm_head=True)
        if (width := student.hidden_size) and width != base.hidden_size:
            of = base.hidden_size
            heads, inner = base.num_heads * width // of, base.intermediate_size * width // of
            sizes["num_heads"] = sizes["num_heads"] or max(heads, 1)
            sizes["intermediate_size"] = sizes["intermediate_size"] or max(inner, 1)
        base = dataclasses.replace(base, **{name: size for name, size in sizes.items() if size is not None})
    types = (base.type_vocab_size or 2) if family.token_type_ids else 0
    config = dataclasses.replace(
        base, type_vocab_size=types, dropout=student.dropout, attention_dropout=student.attention_dropout
    )
    family.write_config(config)  # refuses now what could not be exported after the last step
    return family, config


def check_vocabulary(model: Model, vocabulary: Vocabulary) -> None:
    """Raise UserError unless a model reads the vocabulary that the blocks are written in."""
    theirs = load_vocabulary(str(model.directory))
    if theirs.digest != vocabulary.digest:
        raise UserError(
            f"{model.source} has a vocabulary of {theirs.size} words and the corpus is written in another one of "
            f"{vocabulary.size}: leave corpus.tokenizer unset to use the model's, or choose models that share one"
        )
    if model.config.vocab_size < vocabulary.size:
        raise UserError(
            f"{model.source} has {model.config.vocab_size} word embeddings for a vocabulary of {vocabulary.size}; its "
            "tokenizer and weights do not belong together"
        )


def check_head(model: Model) -> None:
    """Raise UserError where a model has no vocabulary logits that mean anything."""
    if not model.config.mlm_head:
        raise UserError(f"{model.source} has no masked-LM head; choose a ...ForMaskedLM checkpoint of it")


def check_compared(name: str, config: EncoderConfig, judge: Model | None, length: int) -> None:
    """Raise UserError unless a model and the one it is compared with, if any, can both read the blocks."""
    longest = min([config.max_positions] + ([judge.config.max_positions] if judge else []))
    if length > longest:
        raise UserError(
            f"corpus.length {length} exceeds the {longest} positions of the models; use {longest} or less"
        )
    if judge is None:
        return
    check_head(judge)
    if judge.config.vocab_size != config.vocab_size:
        raise UserError(
            f"{name} has {config.vocab_size} word embeddings and {judge.source} has {judge.config.vocab_size}; let it "
            "start from that model, or drop one of the two"
        )


def make_evaluator(
    config: EncoderConfig,
    dtype: DType,
    judge: Model | None,
    judges: tuple[Apply, ...],
    vocabulary: Vocabulary,
    mesh: Any,
) -> Any:
    """Compile the evaluation of a model of ``config`` on masked tokens, with the same masks in every run.

    Compares with the judge where there is one; cosine only where the widths are equal.
    """
    encode = make_apply(config, dtype)
    draw = MLM().make_prepare(
        mask_id=vocabulary.mask,
        special_ids=vocabulary.special_ids,
        counts=np.ones(vocabulary.size),
        seed=EVAL_SEED,
    )
    losses: dict[str, Loss] = {"report": VocabReport(judged=judge is not None)}
    if judge is not None and judge.config.hidden_size == config.hidden_size:
        losses["cosine"] = Cosine()
    evaluate = make_evaluate(lambda params, rows: encode(params, rows, None), judges, draw, losses)
    return jax.jit(evaluate, out_shardings=sharding.replicated(mesh))


def read(path: str, run: Path, report: Report = lambda line: None) -> Model:
    """Read a model by path, Hub id or, for a run in a row of stages, ``@stage``."""
    model = workdir.read_model(str(run.parent / path[1:]) if path.startswith("@") else path)
    if model.note:
        report(f"{model.source}: {model.note}")
    return model


def fixed(model: Model | None, dtype: DType, mesh: Any) -> tuple[tuple[Apply, ...], tuple[Params, ...]]:
    """Make a model a frozen function and its weights, in ``dtype``, one copy a device; two empty tuples for none."""
    if model is None:
        return (), ()
    encode = make_apply(model.config, dtype)
    params = jax.tree.map(lambda leaf: np.asarray(leaf).astype(operand_dtype(dtype)), model.params)
    return (lambda params, batch: encode(params, batch, None),), (
        jax.device_put(params, sharding.replicated(mesh)),
    )


def _init_losses(
    e: Experiment, encode: Any, teachers: tuple[Apply, ...], config: EncoderConfig, params: Any, length: int
) -> Params:
    batch = feed.abstract_batch(length)
    student = jax.eval_shape(lambda p, b: encode(p, b, None), shapes_of(config), batch)
    outputs = tuple(jax.eval_shape(apply, p, batch) for apply, p in zip(teachers, params, strict=True))
    keys = jax.random.split(jax.random.fold_in(jax.random.key(e.seed), 1), len(e.losses))
    return {
        name: loss.init(key, student, outputs)
        for key, (name, loss) in zip(keys, e.losses.items(), strict=True)
    }


def _check_losses(e: Experiment) -> None:
    step = jax.ShapeDtypeStruct((), np.int32)
    terms = [term for loss in e.losses.values() for term in jax.eval_shape(loss.weights, step)]
    twice = sorted({term for term in terms if terms.count(term) > 1})
    if twice:
        raise UserError(
            f"two losses have a term {', '.join(twice)}, and one would hide the other; keep one of them"
        )
    for name, loss in e.losses.items():
        if loss.needs_teacher and e.teacher is None:
            raise UserError(
                f"losses.{name} compares with a teacher, but the experiment has none; name one or drop the loss"
            )

"""One distillation step against PyTorch.

    python benchmarks/train_step_speed.py --preset cpu

Same weights, batch, masks, loss (5 x KL at T = 2, 2 x MLM, 1 x cosine), AdamW and clipping in both,
dropout off. Before anything is timed, both must give the same loss and gradients in float32.
PyTorch runs transformers models with SDPA, eager and compiled, in float32 and bfloat16, without
reading anything back in the loop. Its best setting on this machine is compared, in interleaved
pairs. Rows have no padding, which spares PyTorch its masks.
"""

from __future__ import annotations

import dataclasses
import gc
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # one GPU for both sides

import bench
import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
import torch.nn.functional as F

from flaxdistill.hub import checkpoint
from flaxdistill.hub.families import family as find_family
from flaxdistill.losses.cosine import HiddenCosine
from flaxdistill.losses.vocab import VocabKD
from flaxdistill.models.architecture import Compute, make_apply, make_init
from flaxdistill.models.bert import Bert
from flaxdistill.ops.dense import DType, operand_dtype
from flaxdistill.pytrees import Batch
from flaxdistill.runtime import sharding
from flaxdistill.tasks.mlm import MLM, MaskedLMHead
from flaxdistill.train.objective import Objective
from flaxdistill.train.optimizer import AdamW
from flaxdistill.train.single_step import make_single_step
from flaxdistill.train.state import TrainState, make_state

TEMPERATURE, KL, MLM_WEIGHT, RATE, CLIP = 2.0, 5.0, 2.0, 1e-4, 5.0
TOLERANCE = 2e-4
"""Largest difference of a gradient tensor, as a share of its largest entry, and of the loss, in float32."""

MLM_SETTINGS = {"mask_id": 103, "special_ids": (0, 100, 101, 102, 103)}


KEEP = optax.GradientTransformation(
    lambda params: params, lambda g, state, params=None: (jax.tree.map(jnp.zeros_like, g), g)
)
"""Changes nothing and keeps the gradient as its state."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """What is trained: sizes of both models, rows, tokens per row, and the tokens of the KL."""

    name: str
    teacher: Bert
    student: Bert
    family: str
    rows: int
    length: int
    tokens: Any  # "real" or "masked"

    def flops(self) -> float:
        """Count the FLOP of one step: products of the models and the vocabulary heads only.

        A forward pass of the teacher, three of the student; heads on every token or on the masked
        ones, one product for the teacher and three for the student.
        """
        total = 0.0
        share = 1.0 if self.tokens == "real" else -(-15 * self.length // 100) / self.length
        for config, passes in ((self.teacher, 1), (self.student, 3)):
            d, f, n = config.hidden_size, config.intermediate_size, config.num_layers
            layer = 8 * d * d + 4 * d * f + 4 * self.length * d
            total += passes * (n * layer + share * (2 * d * d + 2 * d * config.vocab_size))
        return total * self.rows * self.length


def _bert(layers: int, width: int, heads: int, vocab: int = 30522) -> Bert:
    sizes = {
        "hidden_size": width,
        "num_layers": layers,
        "num_heads": heads,
        "intermediate_size": 4 * width,
    }
    return Bert(head=MaskedLMHead(), vocab_size=vocab, dropout=0.0, attention_dropout=0.0, **sizes)


def _cases(
    name: str, teacher: Bert, layers: int, family: str, rows: int, length: int
) -> list[Case]:
    types = 0 if family == "distilbert" else 2
    student = dataclasses.replace(teacher, num_layers=layers, type_vocab_size=types)
    return [
        Case(
            name=f"{name}, {rows} x {length}, KL on {'all' if tokens == 'real' else tokens} tokens",
            teacher=teacher, student=student, family=family, rows=rows, length=length, tokens=tokens,
        )
        for tokens in ("real", "masked")
    ]  # fmt: skip


BASE, SMALL = _bert(12, 768, 12), _bert(6, 384, 12)
PRESETS: dict[str, list[Case]] = {
    "cpu": [
        *_cases("BERT-base to DistilBERT", BASE, 6, "distilbert", 8, 128),
        *_cases("6 x 384 to 3 x 384", SMALL, 3, "bert", 64, 128),
    ],
    "cpu-quick": _cases("2 x 64 to 1 x 64", _bert(2, 64, 2, 2000), 1, "distilbert", 8, 64),
    "gpu": [
        *_cases("BERT-base to DistilBERT", BASE, 6, "distilbert", 64, 512),
        *_cases("BERT-base to DistilBERT", BASE, 6, "distilbert", 128, 128),
    ],
}


class Ours:
    """The compiled step of this package on one case."""

    def __init__(self, case: Case, dtype: DType):
        self.case, self.dtype, self.mesh = case, operand_dtype(dtype), sharding.make_mesh()
        self.loss = VocabKD(tokens=case.tokens)
        teacher, student = (
            make_apply(case.teacher, Compute(dtype=dtype)),
            make_apply(case.student, Compute(dtype=dtype)),
        )
        self.applies = (lambda p, b: student(p, b, None), (lambda p, b: teacher(p, b, None),))
        self.prepare = MLM().make_masks(
            counts=np.ones(case.teacher.vocab_size), seed=0, **MLM_SETTINGS
        )
        self.params = make_init(case.student)(jax.random.key(1))
        self.teacher_params = make_init(case.teacher)(jax.random.key(0))
        random = np.random.default_rng(0)
        shape = (case.rows, case.length)
        ids = random.integers(104, case.teacher.vocab_size, shape).astype(np.int32)
        ids[:, 0], ids[:, -1] = 101, 102
        columns = {
            "input_ids": ids,
            "segment_ids": np.ones(shape, np.int32),
            "positions": np.tile(np.arange(case.length, dtype=np.int32), (case.rows, 1)),
            "token_type_ids": np.zeros(shape, np.int32),
            "labels": np.zeros((case.rows, 0), np.int32),
            "weight": np.ones(case.rows, np.float32),
            "example_id": np.arange(case.rows, dtype=np.int32),
            "epoch": np.zeros(case.rows, np.int32),
        }
        self.batch = sharding.place_rows(columns, self.mesh)

    def masked(self) -> Batch:
        """Return the batch after masking."""
        return jax.jit(self.prepare)(self.batch)

    def gradient(self) -> tuple[float, dict[str, np.ndarray]]:
        """Return the loss and its gradient by tensor name."""
        state, metrics = jax.jit(self._step(KEEP))(
            self._state(KEEP), (self.teacher_params,), self.batch
        )
        gradient = jax.tree.map(np.asarray, state.opt_state["student"])
        return float(metrics["loss"].total), find_family(self.case.family).write(
            self.case.student, gradient
        )

    def compile(self) -> None:
        """Compile the train step and create its state."""
        tx = AdamW(learning_rate=RATE, clip=CLIP, warmup=0.0, decay="constant").build(1000)
        shapes = jax.eval_shape(lambda: self._state(tx))
        shardings = sharding.state_shardings(shapes, self.mesh, self.case.student.sharding)
        self.state = jax.device_put(self._state(tx), shardings)
        self.low = jax.tree.map(lambda leaf: leaf.astype(self.dtype), self.teacher_params)
        with jax.set_mesh(self.mesh):
            step = sharding.jit_step(self._step(tx), shardings, self.mesh)
            self.program = step.lower(self.state, (self.low,), self.batch).compile()

    def train(self) -> None:
        """Take one step and wait for it."""
        self.state, metrics = self.program(self.state, (self.low,), self.batch)
        jax.block_until_ready((self.state, metrics))

    def _step(self, tx: optax.GradientTransformation) -> Callable[..., Any]:
        student, teachers = self.applies
        losses = {"vocab": self.loss, "cosine": HiddenCosine()}
        return make_single_step(Objective(student, losses, tx), teachers, self.prepare)

    def _state(self, tx: optax.GradientTransformation) -> TrainState:
        return make_state({"student": self.params, "losses": {"vocab": {}, "cosine": {}}}, tx)


class Torch:
    """The same step in PyTorch and transformers."""

    def __init__(self, ours: Ours, device: str, *, low: bool, compiled: bool):
        self.name = f"{'bfloat16' if low else 'float32'}, {'compiled' if compiled else 'eager'}"
        self.device, self.low = device, low
        case, self.tokens = ours.case, ours.case.tokens
        kind = torch.bfloat16 if low else torch.float32
        self.teacher = (
            _transformers(case.teacher, "bert", ours.teacher_params).to(device, kind).eval()
        )
        self.student = _transformers(case.student, case.family, ours.params).to(device)
        batch = ours.masked()
        self.ids = torch.tensor(np.asarray(batch.input_ids), dtype=torch.long, device=device)
        labels, at = np.asarray(batch.labels), np.asarray(batch.label_positions)
        row, column = np.nonzero(labels >= 0)
        self.labels = torch.tensor(labels[row, column], dtype=torch.long, device=device)
        self.at = torch.tensor(row * case.length + at[row, column], dtype=torch.long, device=device)
        self.adam = torch.optim.AdamW(
            self.student.parameters(), RATE, (0.9, 0.98), 1e-6, weight_decay=0.0, fused=True
        )
        self.objective = (
            torch.compile(self._objective, dynamic=False) if compiled else self._objective
        )

    def gradient(self) -> tuple[float, dict[str, np.ndarray]]:
        """Return the loss and its gradient by tensor name."""
        self.student.zero_grad()
        loss = self.objective()
        loss.backward()
        named = self.student.named_parameters()
        return loss.item(), {
            n: p.grad.float().cpu().numpy() for n, p in named if p.grad is not None
        }

    def train(self) -> None:
        """Take one step and wait for it."""
        self.adam.zero_grad(set_to_none=True)
        self.objective().backward()
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), CLIP)
        self.adam.step()
        if self.device == "cuda":
            torch.cuda.synchronize()

    def _objective(self) -> torch.Tensor:
        with torch.autocast(self.device, torch.bfloat16, enabled=self.low):
            with torch.no_grad():
                theirs, wanted = self._forward(self.teacher)
            ours, logits = self._forward(self.student)
        wanted, logits = wanted.float(), logits.float()
        kl = F.kl_div(
            F.log_softmax(logits / TEMPERATURE, -1),
            F.softmax(wanted / TEMPERATURE, -1),
            reduction="batchmean",
        )
        mlm = F.cross_entropy(logits[self.at] if self.tokens == "real" else logits, self.labels)
        cosine = 1 - F.cosine_similarity(ours.float(), theirs.float(), dim=-1).mean()
        return KL * TEMPERATURE**2 * kl + MLM_WEIGHT * mlm + cosine

    def _forward(self, model: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the last hidden state and the logits of every token, or of the masked ones."""
        hidden = model.base_model(self.ids).last_hidden_state.flatten(0, 1)
        seen = hidden if self.tokens == "real" else hidden[self.at]
        if hasattr(model, "cls"):
            return hidden, model.cls(seen)
        seen = model.vocab_layer_norm(model.activation(model.vocab_transform(seen)))
        return hidden, model.vocab_projector(seen)


def _transformers(config: Bert, family: str, params: Any) -> Any:
    """Load our parameters in transformers, through files."""
    from transformers import AutoModelForMaskedLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        leaves = jax.tree.map(np.asarray, params)
        checkpoint.write_model(
            path, family=find_family(family), config=config, params=leaves, tokenizer=None
        )
        return AutoModelForMaskedLM.from_pretrained(path, attn_implementation="sdpa")


def check_equal(ours: Ours, theirs: Torch) -> bench.Row:
    """Compare loss and gradients; raises SystemExit if they differ."""
    with jax.default_matmul_precision("highest"):
        our_loss, mine = ours.gradient()
    their_loss, their = theirs.gradient()
    # Where logits of equal words are close to no gradient, a tensor's own scale would be noise.
    largest = max(np.abs(g).max() for g in their.values())
    worst, name = max(
        (float(np.abs(mine[n] - g).max() / max(np.abs(g).max(), 1e-3 * largest)), n)
        for n, g in their.items()
    )
    off = abs(our_loss - their_loss) / abs(their_loss)
    if max(off, worst) > TOLERANCE:
        raise SystemExit(
            f"{ours.case.name}: loss {our_loss} and {their_loss}, gradient of {name} off by {worst:.1e}"
        )
    return {"loss_difference": off, "gradient_difference": worst}


def peak_memory(call: Callable[[], None], device: str) -> float:
    """Measure the memory of one call in addition to what is allocated before it, in GiB."""
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return (torch.cuda.max_memory_allocated() - before) / 2**30

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

    before = highest = resident()
    done = threading.Event()

    def watch() -> None:
        nonlocal highest
        while not done.wait(0.002):
            highest = max(highest, resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    call()
    done.set()
    watcher.join()
    return (highest - before) / 2**30


def peak_flops(dtype: Any, device: str) -> float:
    """Measure the fastest large matrix product of either library in FLOP/s."""
    n = 8192 if device == "cuda" else 2048
    a = jnp.ones((n, n), dtype)
    product = jax.jit(lambda a: jnp.matmul(a, a, preferred_element_type=jnp.float32).astype(dtype))
    b = torch.ones(
        (n, n), dtype=torch.bfloat16 if dtype == jnp.bfloat16 else torch.float32, device=device
    )

    def torch_product() -> None:
        torch.matmul(b, b)
        if device == "cuda":
            torch.cuda.synchronize()

    seconds = bench.interleave(
        {"ours": lambda: jax.block_until_ready(product(a)), "torch": torch_product}, 3, least=0.3
    )
    return 2 * n**3 / min(min(s) for s in seconds.values())


def measure(case: Case, options: Any, device: str) -> bench.Row:
    """Check equality, choose PyTorch's best setting, and time the pairs: one row of the table."""
    print(f"{case.name} ...", flush=True)
    same = check_equal(
        Ours(case, "float32"), Torch(Ours(case, "float32"), device, low=False, compiled=False)
    )
    ours = Ours(case, "auto")
    ours.compile()
    best, settings = None, {}
    for low, compiled in ((False, False), (True, False), (False, True), (True, True)):
        theirs = Torch(ours, device, low=low, compiled=compiled)
        theirs.train()
        began = time.perf_counter()
        theirs.train()
        slow = best is not None and time.perf_counter() - began > 3 * min(settings.values())
        times = bench.interleave({"": theirs.train}, 1 if slow else 3, least=options.least)[""]
        settings[theirs.name] = statistics.median(times)
        print(
            f"  torch {theirs.name}: {case.rows * case.length / settings[theirs.name]:,.0f} tokens/s",
            flush=True,
        )
        if best is None or settings[theirs.name] < settings[best.name]:
            best = theirs
        torch.compiler.reset() if compiled and best is not theirs else None
    assert best is not None
    seconds = bench.interleave(
        {"ours": ours.train, "torch": best.train}, options.pairs, least=options.least
    )
    tokens, ours_s = case.rows * case.length, statistics.median(seconds["ours"])
    memory = ours.program.memory_analysis()
    return {
        "name": case.name,
        "ours_tokens_per_second": tokens / ours_s,
        "torch_tokens_per_second": tokens / statistics.median(seconds["torch"]),
        "ratio": bench.ratio(seconds["ours"], seconds["torch"]),
        "ours": jnp.dtype(ours.dtype).name,
        "torch": best.name,
        "model_gflops": case.flops() / ours_s / 1e9,
        "utilisation": case.flops() / ours_s / peak_flops(ours.dtype, device),
        "ours_peak_gib": memory.temp_size_in_bytes / 2**30,
        "torch_peak_gib": peak_memory(best.train, device),
        "torch_settings_tokens_per_second": {name: tokens / s for name, s in settings.items()},
        "pairs_seconds": seconds,
    } | same


def main() -> None:
    cases, options, device, where = bench.begin(__doc__, PRESETS, least=2.0)
    rows = [measure(case, options, device) for case in cases]
    columns = {
        "name": "", "ours_tokens_per_second": ",.0f", "torch_tokens_per_second": ",.0f", "ratio": ".2f", "ours": "",
        "torch": "", "model_gflops": ",.0f", "utilisation": ".0%", "ours_peak_gib": ".2f", "torch_peak_gib": ".2f",
        "gradient_difference": ".0e",
    }  # fmt: skip
    bench.show("one distillation step", rows, columns)
    bench.save(options, rows, where, bars=("ours_tokens_per_second", "torch_tokens_per_second"))


if __name__ == "__main__":
    main()

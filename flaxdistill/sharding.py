"""Meshes, and where every array lives on them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from flaxdistill import tree
from flaxdistill.errors import UserError
from flaxdistill.pytrees import ROWS, Batch

RULES: list[tuple[str, tuple[P, ...]]] = [
    # Vectors are too small to be worth a gather.
    (r".*/(bias|scale)|.*_bias", (P(),)),
    # A table split along its vocabulary makes XLA rematerialise it whole; its width divides, 30,522 does not.
    (r".*/embedding", (P(None, "fsdp"), P())),
    (r".*/kernel", (P("fsdp", None), P(None, "fsdp"), P())),
    # Counters of the optimiser and of the state.
    (r"[^/]*|(.*/)?(count|step|next_index|notfinite_count|last_finite|total_notfinite|worth)", (P(),)),
]

CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}
"""YNN multiplies faster than Eigen; what it fuses around a product, XLA left to itself computes several times faster."""


def make_mesh(fsdp: int = 1, devices: list[jax.Device] | None = None) -> Mesh:
    """Lay the devices out as data x fsdp; raises UserError where fsdp does not divide them."""
    devices = jax.devices() if devices is None else devices
    if len(devices) % fsdp:
        raise UserError(
            f"fsdp {fsdp} does not divide the {len(devices)} devices; use one of {_divisors(len(devices))}"
        )
    # Auto, written out: the default axis type is Explicit, where stock Linen modules fail.
    return Mesh(np.asarray(devices).reshape(-1, fsdp), ROWS, axis_types=(AxisType.Auto,) * 2)


def check_batch(batch_size: int, accumulate: int, mesh: Mesh) -> None:
    """Raise UserError unless every device gets the same number of rows in every micro-batch."""
    unit = mesh.size * accumulate
    if batch_size % unit:
        near = sorted({max(unit, batch_size // unit * unit), (batch_size // unit + 1) * unit})
        parts = f"{mesh.size} devices" + (f" x {accumulate} micro-batches" if accumulate > 1 else "")
        raise UserError(
            f"batch_size {batch_size} is not divisible by {parts}; nearest are {' and '.join(map(str, near))}"
        )


def state_shardings(state: Any, mesh: Mesh, lanes: int = 1) -> Any:
    """Give every leaf of a state (arrays or ShapeDtypeStructs) the first spec of its row that divides it.

    Of several ``lanes`` every leaf has a leading axis, which is not split.
    """
    ahead = (None,) if lanes > 1 else ()
    flat = tree.flatten(state)
    specs = tree.match(RULES, flat, what="sharding", unused=True)

    def place(path: str, leaf: Any) -> NamedSharding:
        for spec in specs[path]:
            shape = leaf.shape[len(ahead) :]
            if len(spec) <= len(shape) and all(
                axis is None or size % mesh.shape[axis] == 0 for axis, size in zip(spec, shape, strict=False)
            ):
                return NamedSharding(mesh, P(*ahead, *spec))
        return NamedSharding(mesh, P())

    return tree.map_with_path(place, state)


def rows_sharding(mesh: Mesh, *, lanes: bool = False) -> NamedSharding:
    """Split the leading axis of a batch, or the one after that of ``lanes``, over all devices."""
    return NamedSharding(mesh, P(None, ROWS) if lanes else P(ROWS))


def replicated(mesh: Mesh) -> NamedSharding:
    """Keep a whole copy on every device."""
    return NamedSharding(mesh, P())


def place_rows(
    rows: Mapping[str, np.ndarray], mesh: Mesh, targets: Mapping[str, np.ndarray] | None = None
) -> Batch:
    """Put this process's rows, and a teacher's stored answers to them, on its devices as one global batch.

    Columns of several lanes have a leading axis of them. Label columns are still empty.
    """
    sharding = rows_sharding(mesh, lanes=rows["weight"].ndim == 2)
    columns: dict[str, Any] = {**rows, "label_positions": np.zeros(rows["labels"].shape, np.int32)}
    columns["targets"] = dict(targets or {})
    batch = Batch(**columns)
    if jax.process_count() == 1:
        return _identity(sharding)(batch)
    return jax.tree.map(lambda value: jax.make_array_from_process_local_data(sharding, value), batch)


@functools.cache
def _identity(sharding: NamedSharding) -> Callable[[Batch], Batch]:
    # One call for all columns: device_put takes each on its own, at three times the host time.
    return jax.jit(lambda batch: batch, out_shardings=sharding)


def jit(f: Callable[..., Any], mesh: Mesh, **options: Any) -> Callable[..., Any]:
    """Compile as jax.jit does, telling XLA what it should know of this mesh's hardware."""
    cpu = mesh.devices.flat[0].platform == "cpu"
    return jax.jit(f, compiler_options=CPU_OPTIONS if cpu else None, **options)


def jit_step(step: Callable[..., Any], shardings: Any, mesh: Mesh) -> Callable[..., Any]:
    """Compile a step whose state, the first argument and result, is donated and stays where ``shardings`` put it.

    Without the result's shardings written out the second call would see other ones than the first, and compile again.
    """
    return jit(step, mesh, donate_argnums=0, out_shardings=(shardings, replicated(mesh)))


def micro_batches(batch: Batch, accumulate: int) -> Batch:
    """Cut rows [B, ...] into [accumulate, B / accumulate, ...], every device keeping the rows it has.

    A plain reshape to [accumulate, B / accumulate] would gather the batch: consecutive rows live on one device.
    """

    def cut(x: jax.Array) -> jax.Array:
        x = x.reshape(x.shape[0] // accumulate, accumulate, *x.shape[1:]).swapaxes(0, 1)
        if jax.sharding.get_abstract_mesh().empty:
            return x
        return jax.lax.with_sharding_constraint(x, P(None, ROWS))

    return jax.tree.map(cut, batch)


def _divisors(n: int) -> str:
    return ", ".join(str(d) for d in range(1, n + 1) if n % d == 0)

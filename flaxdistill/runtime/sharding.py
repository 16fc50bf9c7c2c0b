"""Meshes, and where every array lives on them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from flaxdistill import param_paths
from flaxdistill.errors import UserError
from flaxdistill.pytrees import Batch
from flaxdistill.runtime.mesh_axes import ROWS

RULES: list[tuple[str, tuple[P, ...]]] = [
    # Vectors are too small to be worth a gather.
    (r".*/(bias|scale)|.*_bias", (P(),)),
    # A table split along its vocabulary makes XLA rematerialise it whole; its width divides, 30,522 does not.
    (r".*/embedding", (P(None, ("fsdp", "tensor")), P(None, "fsdp"), P())),
    # As ``models.layers`` multiplies by them.
    (r".*/layer_\d+/(query|key|value|inner)/kernel", (P("fsdp", "tensor"), P(None, "tensor"))),
    (r".*/layer_\d+/(attention|outer)/kernel", (P("tensor", "fsdp"), P("tensor", None))),
    (r".*/kernel", (P("fsdp", None), P(None, "fsdp"), P())),
    # Counters of the optimiser and of the state.
    (r"[^/]*|(.*/)?(step|notfinite_count|total_notfinite|worth)", (P(),)),
]

CPU_OPTIONS = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"
}
"""YNN multiplies faster than Eigen and sums faster than XLA, but what it fuses around a product XLA computes faster."""


def make_mesh(fsdp: int = 1, tensor: int = 1, devices: list[jax.Device] | None = None) -> Mesh:
    """Lay the devices out as data x fsdp x tensor, the last ones on the shortest links.

    Slices of TPUs that only a data centre's network joins share nothing but rows: ``fsdp`` and ``tensor`` stay inside
    one. Raises UserError where the three do not divide the devices, or those of a slice.
    """
    devices = jax.devices() if devices is None else devices
    tpu = devices[0].platform == "tpu"
    slices = len({getattr(device, "slice_index", 0) for device in devices}) if tpu else 1
    shape = _shape(len(devices) // slices, fsdp, tensor, slices)
    if slices > 1:
        grid = mesh_utils.create_hybrid_device_mesh(shape, (slices, 1, 1), devices)
    elif tpu and len(devices) > 1:
        grid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    else:
        grid = np.asarray(devices).reshape(shape)
    # Auto, written out: the default axis type is Explicit, where stock Linen modules fail.
    return Mesh(grid, (*ROWS, "tensor"), axis_types=(AxisType.Auto,) * 3)


def imagine_mesh(size: int, fsdp: int, tensor: int) -> Any:
    """Make the mesh of so many devices that are not here, for shapes alone; raises UserError as ``make_mesh`` does."""
    return jax.sharding.AbstractMesh(_shape(size, fsdp, tensor, 1), (*ROWS, "tensor"))


def groups(mesh: Mesh) -> int:
    """Count the groups of devices that rows are split among; those of a group share each of its rows."""
    return math.prod(mesh.shape[axis] for axis in ROWS)


def round_up(rows: int, mesh: Mesh) -> int:
    """Give the next number of rows that can be split among all groups."""
    return -(-rows // groups(mesh)) * groups(mesh)


def check_batch(batch_size: int, accumulate: int, mesh: Mesh) -> None:
    """Raise UserError unless every group of devices gets the same number of rows in every micro-batch."""
    unit = groups(mesh) * accumulate
    if batch_size % unit:
        near = sorted({max(unit, batch_size // unit * unit), (batch_size // unit + 1) * unit})
        parts = (
            "devices" if groups(mesh) == mesh.size else f"groups of {mesh.shape['tensor']} devices"
        )
        parts = f"{groups(mesh)} {parts}" + (
            f" x {accumulate} micro-batches" if accumulate > 1 else ""
        )
        raise UserError(
            f"batch_size {batch_size} is not divisible by {parts}; nearest are {' and '.join(map(str, near))}"
        )


def state_shardings(state: Any, mesh: Mesh, lanes: int = 1) -> Any:
    """Give every leaf of a state (arrays or ShapeDtypeStructs) the first spec of its row that divides it.

    Of several ``lanes`` every leaf has a leading axis, which is not split.
    """
    ahead = (None,) if lanes > 1 else ()
    flat = param_paths.flatten(state)
    specs = param_paths.match(RULES, flat, what="sharding", unused=True)

    def place(path: str, leaf: Any) -> NamedSharding:
        shape = leaf.shape[len(ahead) :]
        for spec in specs[path]:
            if len(spec) <= len(shape) and all(
                size % _parts(axes, mesh) == 0 for axes, size in zip(spec, shape, strict=False)
            ):
                return NamedSharding(mesh, P(*ahead, *spec))
        return NamedSharding(mesh, P())

    return param_paths.map_with_path(place, state)


def rows_sharding(mesh: Mesh, *, lanes: bool = False) -> NamedSharding:
    """Split the leading axis of a batch, or the one after that of ``lanes``, over all groups of devices."""
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
    return jax.tree.map(
        lambda value: jax.make_array_from_process_local_data(sharding, value), batch
    )


def own_rows(size: int, mesh: Mesh) -> np.ndarray:
    """Tell which rows of a global batch of ``size`` lie on devices of this process, in order: int64 [n].

    Where processes share a group of devices they share its rows.
    """
    places = rows_sharding(mesh).addressable_devices_indices_map((size,)).values()
    return np.unique(np.concatenate([np.arange(size)[place] for place in places]))


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


def _shape(inside: int, fsdp: int, tensor: int, slices: int) -> tuple[int, int, int]:
    parts = fsdp * tensor
    if inside % parts:
        what = f"fsdp {fsdp}" + (f" x tensor {tensor}" if tensor > 1 else "")
        where = f"{inside} devices" + (f" of each of {slices} slices" if slices > 1 else "")
        raise UserError(f"{what} does not divide the {where}; use one of {_divisors(inside)}")
    return inside // parts, fsdp, tensor


def _parts(axes: str | tuple[str, ...] | None, mesh: Mesh) -> int:
    """Count the parts that axes of a spec cut a size into."""
    names = (axes,) if isinstance(axes, str) else axes or ()
    return math.prod(mesh.shape[name] for name in names)


def _divisors(n: int) -> str:
    return ", ".join(str(d) for d in range(1, n + 1) if n % d == 0)

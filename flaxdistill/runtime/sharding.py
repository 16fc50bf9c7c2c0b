"""Device meshes, and the sharding of parameters and batches."""

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
from flaxdistill.runtime.mesh_axes import BATCH_AXES

Rules = tuple[tuple[str, tuple[P, ...]], ...]
"""Partition specs by pattern of a parameter path. A leaf takes the first spec whose axes divide its
shape."""

RULES: Rules = (
    # Vectors are too small for a gather to pay off.
    (r".*/(bias|scale)|.*_bias", (P(),)),
    # XLA rematerialises a table that is sharded over its vocabulary. The width divides, 30,522 not.
    (r".*/embedding", (P(None, ("fsdp", "tensor")), P(None, "fsdp"), P())),
    (r".*/kernel", (P("fsdp", None), P(None, "fsdp"), P())),
    # Scalars of the optimizer and of the train state.
    (r"[^/]*|(.*/)?(step|notfinite_count|total_notfinite|score)", (P(),)),
)
"""The rules of every model; those of an architecture come before them."""

CPU_OPTIONS = {
    "xla_cpu_experimental_ynn_fusion_type": (
        "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"
    )
}
"""Use YNN for matrix products (faster than Eigen) and reductions (faster than XLA), but not for the
operations that it fuses with a product, where XLA is faster."""


def make_mesh(fsdp: int = 1, tensor: int = 1, devices: list[jax.Device] | None = None) -> Mesh:
    """Create a mesh of data x fsdp x tensor; the last axes have the fastest interconnect.

    TPU slices that are connected only by the data-centre network use data parallelism alone:
    ``fsdp`` and ``tensor`` stay inside a slice. Raises UserError if fsdp x tensor does not divide
    the number of devices, or of devices in a slice.
    """
    devices = jax.devices() if devices is None else devices
    tpu = devices[0].platform == "tpu"
    slices = len({getattr(device, "slice_index", 0) for device in devices}) if tpu else 1
    shape = _mesh_shape(len(devices) // slices, fsdp, tensor, slices)
    if slices > 1:
        grid = mesh_utils.create_hybrid_device_mesh(shape, (slices, 1, 1), devices)
    elif tpu and len(devices) > 1:
        grid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    else:
        grid = np.asarray(devices).reshape(shape)
    # The default axis type is Explicit, which stock Linen modules do not support.
    return Mesh(grid, (*BATCH_AXES, "tensor"), axis_types=(AxisType.Auto,) * 3)


def abstract_mesh(size: int, fsdp: int, tensor: int) -> Any:
    """Create a mesh of ``size`` abstract devices; raise UserError as ``make_mesh`` does."""
    shape = _mesh_shape(size, fsdp, tensor, 1)
    return jax.sharding.AbstractMesh(shape, (*BATCH_AXES, "tensor"))


def data_parallel_size(mesh: Mesh) -> int:
    """Return the number of groups of devices that rows are sharded over."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def round_up(rows: int, mesh: Mesh) -> int:
    """Round a number of rows up to a multiple of ``data_parallel_size``."""
    return -(-rows // data_parallel_size(mesh)) * data_parallel_size(mesh)


def check_batch(batch_size: int, accumulate: int, mesh: Mesh) -> None:
    """Raise UserError unless all micro-batches of all groups of devices have equally many rows."""
    groups = data_parallel_size(mesh)
    unit = groups * accumulate
    if batch_size % unit:
        nearest = sorted({max(unit, batch_size // unit * unit), (batch_size // unit + 1) * unit})
        parts = "devices" if groups == mesh.size else f"groups of {mesh.shape['tensor']} devices"
        parts = f"{groups} {parts}" + (f" x {accumulate} micro-batches" if accumulate > 1 else "")
        raise UserError(
            f"batch_size {batch_size} is not divisible by {parts}; nearest are "
            f"{' and '.join(map(str, nearest))}"
        )


def state_shardings(state: Any, mesh: Mesh, rules: Rules, lanes: int = 1) -> Any:
    """Return the sharding of every leaf of a state (arrays or ShapeDtypeStructs).

    ``rules`` are those of the architecture, which come before ``RULES``.
    With several ``lanes``, every leaf has a leading lane axis, which is not sharded.
    """
    leading = (None,) if lanes > 1 else ()
    flat = param_paths.flatten(state)
    specs = param_paths.match((*rules, *RULES), flat, table="sharding", allow_unused=True)

    def shard(path: str, leaf: Any) -> NamedSharding:
        shape = leaf.shape[len(leading) :]
        for spec in specs[path]:
            if len(spec) <= len(shape) and all(
                size % _num_parts(axes, mesh) == 0 for axes, size in zip(spec, shape, strict=False)
            ):
                return NamedSharding(mesh, P(*leading, *spec))
        return NamedSharding(mesh, P())

    return param_paths.map_with_path(shard, state)


def batch_sharding(mesh: Mesh, *, lanes: bool = False) -> NamedSharding:
    """Return the sharding of a batch by rows: its first axis, or the second after ``lanes``."""
    return NamedSharding(mesh, P(None, BATCH_AXES) if lanes else P(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding with a full copy on every device."""
    return NamedSharding(mesh, P())


def place_rows(
    rows: Mapping[str, np.ndarray], mesh: Mesh, targets: Mapping[str, np.ndarray] | None = None
) -> Batch:
    """Create a global batch from the rows of this process and a teacher's cached ``targets``.

    With several lanes, the columns have a leading lane axis. ``label_positions`` are zeros if
    ``rows`` has none; a task sets them.
    """
    sharding = batch_sharding(mesh, lanes=rows["weight"].ndim == 2)
    columns: dict[str, Any] = {"label_positions": np.zeros(rows["labels"].shape, np.int32), **rows}
    columns["targets"] = dict(targets or {})
    batch = Batch(**columns)
    if jax.process_count() == 1:
        return _identity(sharding)(batch)
    return jax.tree.map(
        lambda value: jax.make_array_from_process_local_data(sharding, value), batch
    )


def local_rows(size: int, mesh: Mesh) -> np.ndarray:
    """Return the indices of the global batch's rows that this process loads, in order. int64 [n].

    Processes in the same group of devices load the same rows.
    """
    slices = batch_sharding(mesh).addressable_devices_indices_map((size,)).values()
    return np.unique(np.concatenate([np.arange(size)[index] for index in slices]))


@functools.cache
def _identity(sharding: NamedSharding) -> Callable[[Batch], Batch]:
    # One call for all columns: device_put handles them one by one, at three times the host time.
    return jax.jit(lambda batch: batch, out_shardings=sharding)


def jit(f: Callable[..., Any], mesh: Mesh, **options: Any) -> Callable[..., Any]:
    """Compile as jax.jit does, with ``CPU_OPTIONS`` if the mesh's devices are CPUs."""
    cpu = mesh.devices.flat[0].platform == "cpu"
    return jax.jit(f, compiler_options=CPU_OPTIONS if cpu else None, **options)


def jit_step(step: Callable[..., Any], shardings: Any, mesh: Mesh) -> Callable[..., Any]:
    """Compile a step (state, ...) -> (state, metrics) that donates its state, with ``shardings``.

    Without explicit output shardings, the second call would get other input shardings than the
    first, and compile again.
    """
    return jit(step, mesh, donate_argnums=0, out_shardings=(shardings, replicated(mesh)))


def micro_batches(batch: Batch, accumulate: int) -> Batch:
    """Reshape rows [B, ...] to [accumulate, B / accumulate, ...] without moving them.

    A plain reshape to that shape would gather the batch, since a device holds consecutive rows.
    """

    def split(x: jax.Array) -> jax.Array:
        x = x.reshape(x.shape[0] // accumulate, accumulate, *x.shape[1:]).swapaxes(0, 1)
        if jax.sharding.get_abstract_mesh().empty:
            return x
        return jax.lax.with_sharding_constraint(x, P(None, BATCH_AXES))

    return jax.tree.map(split, batch)


def _mesh_shape(devices: int, fsdp: int, tensor: int, slices: int) -> tuple[int, int, int]:
    """Return the mesh shape of a slice."""
    parts = fsdp * tensor
    if devices % parts:
        axes = f"fsdp {fsdp}" + (f" x tensor {tensor}" if tensor > 1 else "")
        total = f"{devices} devices" + (f" of each of {slices} slices" if slices > 1 else "")
        raise UserError(f"{axes} does not divide the {total}; use one of {_divisors(devices)}")
    return devices // parts, fsdp, tensor


def _num_parts(axes: str | tuple[str, ...] | None, mesh: Mesh) -> int:
    """Return the number of parts that the axes of a spec split a dimension into."""
    names = (axes,) if isinstance(axes, str) else axes or ()
    return math.prod(mesh.shape[name] for name in names)


def _divisors(n: int) -> str:
    return ", ".join(str(d) for d in range(1, n + 1) if n % d == 0)

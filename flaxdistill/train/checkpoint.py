"""Checkpoints of a run: asynchronous, atomic, verified by checksums; the newest two are retained.

The file format verifies its index but not its arrays: a bit flipped on the disk would be restored
silently. Each checkpoint therefore stores a checksum per array, which does not depend on the
topology, and every restore computes the checksums again.
"""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from flaxdistill import param_paths
from flaxdistill.errors import UserError, out_of_memory
from flaxdistill.pytrees import Params
from flaxdistill.runtime import gcs, processes
from flaxdistill.runtime.files import error_summary
from flaxdistill.train.checksum import checksums
from flaxdistill.train.state import TrainState


class Checkpoints:
    """The checkpoints of one workdir; wraps orbax's manager, whose API still changes.

    Raises UserError with the reason given by the file system if a save cannot be written.
    """

    def __init__(self, directory: Path):
        options = ocp.CheckpointManagerOptions(max_to_keep=2, cleanup_tmp_directories=True)
        self.directory = directory / "checkpoints"
        self._manager = ocp.CheckpointManager(gcs.as_epath(self.directory), options=options)

    def latest(self) -> int | None:
        """Return the newest complete step, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState) -> None:
        """Start saving; returns as soon as the arrays are copied from the devices."""
        if step in self._manager.all_steps():
            return
        items = _with_checksums(_as_dict(state))
        try:
            self._manager.save(step, args=ocp.args.StandardSave(items), force=True)
        except (OSError, ValueError, RuntimeError) as error:  # of this save or the previous one
            raise self._save_error(error) from error

    def wait(self, step: int) -> None:
        """Wait until all saves are on the disk and verify that ``step`` is among them."""
        try:
            self._manager.wait_until_finished()
        # A full disk is a ValueError in tensorstore and a RuntimeError in the thread.
        except Exception as error:
            raise self._save_error(error) from error
        if self.latest() != step:
            raise UserError(
                f"checkpoint {step} in {self.directory} is not complete; "
                f"the newest is {self.latest()}"
            )

    def restore(
        self, state: Any, shardings: Any, report: Callable[[str], None]
    ) -> TrainState | None:
        """Restore the newest intact checkpoint, whatever topology saved it; None if there is none.

        ``state`` gives the shapes and ``shardings`` the new placement. Damaged checkpoints are
        reported and renamed, so their steps can be saved again. Raises UserError, and renames
        nothing, if all are damaged.
        """
        damaged: list[int] = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                restored = self._restore(step, state, shardings)
            except Exception as error:  # orbax and tensorstore report damage in a dozen ways
                _raise_unless_damage(error, self.directory / str(step))
                report(f"{self.directory / str(step)} is damaged ({error_summary(error)})")
                damaged.append(step)
                continue
            if damaged:
                self._rename_damaged(damaged)
                report(
                    f"renamed the damaged checkpoints in {self.directory}; resumes from step {step}"
                )
            return restored
        if damaged:
            raise UserError(
                f"no checkpoint in {self.directory} can be read; "
                "move that folder away to start again from step 0"
            )
        return None

    def _rename_damaged(self, steps: list[int]) -> None:
        folder = gcs.as_epath(self.directory)
        for step in steps if processes.is_main() else ():
            (folder / str(step)).rename(folder / f"damaged-{step}-{time.time_ns()}")
        processes.barrier("damaged")
        self._manager.reload()

    def _restore(self, step: int, state: Any, shardings: Any) -> TrainState:
        abstract = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            _as_dict(state),
            _as_dict(shardings),
        )
        replicated = jax.sharding.NamedSharding(
            jax.tree.leaves(shardings)[0].mesh, jax.sharding.PartitionSpec()
        )
        sums = {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated)
            for name, leaf in jax.eval_shape(_with_checksums, abstract)["sums"].items()
        }
        restored, failure = {}, None
        try:
            with _reader() as reader:
                folder = gcs.as_epath(self.directory / str(step))
                restored = _read(reader, folder, {**abstract, "sums": sums})
        except Exception as error:  # see restore
            failure = error
        # A truncated file may be read by one process only: all must take the same branch.
        if not processes.all_true(failure is None):
            raise failure or ValueError("another process cannot read it")
        stored_sums = restored.pop("sums")
        _compare_checksums(stored_sums, _with_checksums(restored)["sums"])
        return TrainState(**restored)

    def close(self) -> None:
        """Stop orbax's threads."""
        self._manager.close()

    def _save_error(self, error: Exception) -> UserError:
        return UserError(
            f"a checkpoint could not be written to {self.directory} "
            f"({error_summary(error)}); free some space or choose another --workdir, then run the "
            f"same command again: it resumes from step {self.latest() or 0}"
        )


def latest_step(directory: Path) -> int | None:
    """Return a workdir's newest complete step, or None; ignores one that is being written."""
    folder = directory / "checkpoints"
    if not gcs.list_names(folder):
        return None
    return max(ocp.utils.checkpoint_steps(gcs.as_epath(folder)), default=None)


def read_student(
    directory: Path,
    step: int,
    shapes: Any,
    part: Literal["params", "best", "frozen"] = "params",
) -> Params:
    """Read the student's parameters of a checkpoint, without the rest of the state.

    ``part`` is the trained parameters of the step, those of the best evaluation, or the frozen
    ones. Returns float32 numpy leaves with the shapes of ``shapes``.
    """
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), shapes
    )
    folder = gcs.as_epath(directory / "checkpoints" / str(step))
    arrays = len(jax.tree.leaves(shapes))
    sums = {part: jax.ShapeDtypeStruct((arrays,), jnp.uint32, sharding=device)}
    try:
        with _reader() as reader:
            # Compare shapes first: orbax reports a mismatch from many threads.
            stored = reader.metadata(folder / "default").item_metadata.tree[part]["student"]
            if _shapes_by_path(stored) != _shapes_by_path(shapes):
                raise ValueError("its arrays have other names or shapes")
            restored = _read(reader, folder, {part: {"student": shapes}, "sums": sums})
        _compare_checksums(restored["sums"], {part: checksums(restored[part]["student"])})
        student: Params = jax.device_get(restored[part]["student"])
    except Exception as error:  # see Checkpoints.restore
        _raise_unless_damage(error, folder)
        raise UserError(
            f"{folder} is damaged or of another student ({error_summary(error)}); "
            "move that folder away to use the checkpoint before"
        ) from error
    return student


def _shapes_by_path(tree: Any) -> dict[str, tuple[int, ...]]:
    return {path: leaf.shape for path, leaf in param_paths.flatten(tree).items()}


def _reader() -> ocp.Checkpointer:
    """Create a checkpointer that reads in this process without waiting for the others.

    orbax's v1 API counts a load as an operation, and processes synchronize saves by the number of
    operations: after loads by only some of them, the next save would wait forever.
    """
    index = jax.process_index()
    only_this_process = ocp.options.MultiprocessingOptions(
        primary_host=index, active_processes={index}, barrier_sync_key_prefix=f"reader_{index}"
    )
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=only_this_process)
    return ocp.Checkpointer(handler, multiprocessing_options=only_this_process)


def _read(reader: ocp.Checkpointer, folder: Any, items: Any) -> Any:
    """Read some arrays of a checkpoint into the shapes and shardings of ``items``."""
    restore_args = ocp.checkpoint_utils.construct_restore_args(items)
    args = ocp.args.PyTreeRestore(item=items, restore_args=restore_args, partial_restore=True)
    return reader.restore(folder / "default", args=args)


def _raise_unless_damage(error: Exception, folder: Path) -> None:
    """Raise for failures that are no damage: unreadable storage and too little memory."""
    gcs.check_readable(folder)
    match = re.search(r"os_error_code='(\w+)'", str(error))  # as tensorstore writes it
    code = match[1] if match else errno.errorcode.get(getattr(error, "errno", None) or 0, "ENOENT")
    if isinstance(error, MemoryError) or out_of_memory(error):
        raise error
    if code not in ("ENOENT", "EINVAL"):
        raise UserError(
            f"a checkpoint cannot be read now ({error_summary(error)}); "
            "make the storage readable, then run the command again"
        )


def _compare_checksums(stored: Mapping[str, jax.Array], computed: Mapping[str, jax.Array]) -> None:
    """Raise ValueError if checksums differ from those that were saved."""
    for name, sums in stored.items():
        wrong = int(np.count_nonzero(np.asarray(sums) != np.asarray(computed[name])))
        if wrong:
            raise ValueError(f"{wrong} of {len(sums)} arrays of {name} are not as they were saved")


def _with_checksums(state: Mapping[str, Any]) -> dict[str, Any]:
    """Add ``sums``: checksums of the parts of the student, and of all other arrays."""
    students = {
        name: state[name]["student"] for name in ("params", "best", "frozen") if name in state
    }
    others = {name: value for name, value in state.items() if name not in students}
    others |= {name: {k: v for k, v in state[name].items() if k != "student"} for name in students}
    sums = {name: checksums(student) for name, student in students.items()}
    return {**state, "sums": sums | {"others": checksums(others)}}


def _as_dict(state: Any) -> Mapping[str, Any]:
    optional = [name for name in ("best", "frozen") if getattr(state, name)]
    names = ("step", "params", "opt_state", *optional)
    return {name: getattr(state, name) for name in names}

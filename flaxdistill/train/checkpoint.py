"""Checkpoints of a run: asynchronous, atomic, the newest few kept, and no bit of them believed unseen.

The file format checks its index and not its arrays: a bit that a disk has turned is read as if it had been written. So a
checkpoint carries a sum of every array's bits, which is the same on any topology, and reading adds them up again.
"""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from flaxdistill import param_paths
from flaxdistill.errors import UserError, out_of_memory
from flaxdistill.pytrees import Params
from flaxdistill.runtime import gcs, processes
from flaxdistill.runtime.files import brief
from flaxdistill.train import checksum
from flaxdistill.train.state import TrainState


class Checkpoints:
    """The checkpoints of one workdir: a thin wall around orbax's manager, whose names still move.

    Raises UserError naming the file system's reason where a save cannot be written.
    """

    def __init__(self, directory: Path):
        options = ocp.CheckpointManagerOptions(max_to_keep=2, cleanup_tmp_directories=True)
        self.directory = directory / "checkpoints"
        self._manager = ocp.CheckpointManager(gcs.direct(self.directory), options=options)

    def latest(self) -> int | None:
        """Give the newest complete step, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState) -> None:
        """Start saving; returns as soon as the arrays are copied from the devices."""
        if step in self._manager.all_steps():
            return
        whole = _summed(_as_dict(state))
        try:
            self._manager.save(step, args=ocp.args.StandardSave(whole), force=True)
        except (OSError, ValueError, RuntimeError) as error:  # of this save or of the one before
            raise self._cannot(error) from error

    def wait(self, step: int) -> None:
        """Wait until what was started is on the disk, and make sure that it is."""
        try:
            self._manager.wait_until_finished()
        except (
            Exception
        ) as error:  # tensorstore reports a full disk as ValueError, the thread as RuntimeError
            raise self._cannot(error) from error
        if self.latest() != step:
            raise UserError(
                f"checkpoint {step} in {self.directory} is not complete; the newest is {self.latest()}"
            )

    def restore(
        self, state: Any, shardings: Any, report: Callable[[str], None]
    ) -> TrainState | None:
        """Restore the newest sound checkpoint into the shapes of ``state`` and any ``shardings``; None if there is none yet.

        Whatever topology saved it. Damaged ones are told of and put aside, so that their steps can be saved again;
        raises UserError where all are damaged, and touches none.
        """
        damaged: list[int] = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                found = self._restore(step, state, shardings)
            except Exception as error:  # orbax and tensorstore tell of damage in a dozen ways
                _let_through(error, self.directory / str(step))
                report(f"{self.directory / str(step)} is damaged ({brief(error)})")
                damaged.append(step)
                continue
            for bad in damaged if processes.first() else ():
                folder = gcs.direct(self.directory)
                (folder / str(bad)).rename(folder / f"damaged-{bad}-{time.time_ns()}")
            if damaged:
                processes.meet("damaged")
                self._manager.reload()
                report(
                    f"put aside the damaged checkpoints in {self.directory}; goes on from step {step}"
                )
            return found
        if damaged:
            raise UserError(
                f"no checkpoint in {self.directory} can be read; move that folder away to start again from step 0"
            )
        return None

    def _restore(self, step: int, state: Any, shardings: Any) -> TrainState:
        abstract = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            _as_dict(state),
            _as_dict(shardings),
        )
        sums = jax.eval_shape(_summed, abstract)["sums"]
        whole = jax.sharding.NamedSharding(
            jax.tree.leaves(shardings)[0].mesh, jax.sharding.PartitionSpec()
        )
        sums = {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole)
            for name, leaf in sums.items()
        }
        restored, wrong = {}, None
        try:
            with _reader() as reader:
                restored = _read(
                    reader, gcs.direct(self.directory / str(step)), {**abstract, "sums": sums}
                )
        except Exception as error:  # as below
            wrong = error
        if not processes.agree(
            wrong is None
        ):  # a file may be cut short that only one of them reads
            raise wrong or ValueError("another process cannot read it")
        told = restored.pop("sums")
        _check(told, _summed(restored)["sums"])
        return TrainState(**restored)

    def close(self) -> None:
        """Let orbax's threads go."""
        self._manager.close()

    def _cannot(self, error: Exception) -> UserError:
        return UserError(
            f"a checkpoint could not be written to {self.directory} ({brief(error)}); free some space or choose "
            f"another --workdir, then run the same command again: it goes on from step {self.latest() or 0}"
        )


def latest_step(directory: Path) -> int | None:
    """Find a workdir's newest complete checkpoint without touching one that is being written."""
    folder = directory / "checkpoints"
    if not gcs.entries(folder):
        return None
    return max(ocp.utils.checkpoint_steps(gcs.direct(folder)), default=None)


def read_student(directory: Path, step: int, shapes: Any, *, best: bool = False) -> Params:
    """Read only the student's parameters of a checkpoint, the last or the best, as numpy float32 leaves of ``shapes``."""
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), shapes
    )
    folder = gcs.direct(directory / "checkpoints" / str(step))
    part = "best" if best else "params"
    told = {part: jax.ShapeDtypeStruct((len(jax.tree.leaves(shapes)),), jnp.uint32, sharding=here)}
    try:
        with _reader() as reader:
            # Shapes first: what orbax tells of others comes from many threads.
            stored = reader.metadata(folder / "default").item_metadata.tree[part]["student"]
            if {p: x.shape for p, x in param_paths.flatten(stored).items()} != {
                p: x.shape for p, x in param_paths.flatten(shapes).items()
            }:
                raise ValueError("its arrays have other names or shapes")
            wanted = {part: {"student": shapes}, "sums": told}
            read = _read(reader, folder, wanted)
        _check(read["sums"], {part: checksum.sums(read[part]["student"])})
        student: Params = jax.device_get(read[part]["student"])
    except Exception as error:  # as above
        _let_through(error, folder)
        raise UserError(
            f"{folder} is damaged or of another student ({brief(error)}); move that folder away to use the checkpoint before"
        ) from error
    return student


def _reader() -> ocp.Checkpointer:
    """Make what reads in this process, waiting for no other.

    orbax's v1 would count a load as an operation, by whose number the processes meet in saves: after loads that not all of
    them have done they would miss each other there.
    """
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"reader_{me}"
    )
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def _read(reader: ocp.Checkpointer, folder: Any, wanted: Any) -> Any:
    """Read the arrays of a checkpoint that are wanted."""
    how = ocp.checkpoint_utils.construct_restore_args(wanted)
    told = ocp.args.PyTreeRestore(item=wanted, restore_args=how, partial_restore=True)
    return reader.restore(folder / "default", args=told)


def _let_through(error: Exception, folder: Path) -> None:
    """Raise what is no damage: what may not be read now, and what there is no memory for."""
    gcs.probe(folder)
    told = re.search(
        r"os_error_code='(\w+)'", str(error)
    )  # as tensorstore tells what the system said
    code = told[1] if told else errno.errorcode.get(getattr(error, "errno", None) or 0, "ENOENT")
    if isinstance(error, MemoryError) or out_of_memory(error):
        raise error
    if code not in ("ENOENT", "EINVAL"):
        raise UserError(
            f"a checkpoint cannot be read now ({brief(error)}); mend that, then run the command again"
        )


def _check(told: Mapping[str, jax.Array], found: Mapping[str, jax.Array]) -> None:
    """Raise ValueError where sums are not those that were saved."""
    for name, there in told.items():
        wrong = int(np.count_nonzero(np.asarray(there) != np.asarray(found[name])))
        if wrong:
            raise ValueError(f"{wrong} of {len(there)} arrays of {name} are not as they were saved")


def _summed(state: Mapping[str, Any]) -> dict[str, Any]:
    """Add the sums of all arrays: of the student's, of the best student's, and of the others."""
    students = {name: state[name]["student"] for name in ("params", "best") if name in state}
    others = {name: value for name, value in state.items() if name not in students}
    others |= {name: {k: v for k, v in state[name].items() if k != "student"} for name in students}
    sums = {name: checksum.sums(student) for name, student in students.items()}
    return {**state, "sums": sums | {"others": checksum.sums(others)}}


def _as_dict(state: Any) -> Mapping[str, Any]:
    names = ("step", "params", "opt_state", *(["best"] if state.best else []))
    return {name: getattr(state, name) for name in names}

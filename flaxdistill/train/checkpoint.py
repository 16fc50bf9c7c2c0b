"""Checkpoints of a run: asynchronous, atomic, the newest few kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from flaxdistill.errors import UserError, out_of_memory
from flaxdistill.files import brief
from flaxdistill.pytrees import Params
from flaxdistill.train.state import TrainState


class Checkpoints:
    """The checkpoints of one workdir: a thin wall around orbax's manager, whose names still move.

    Raises UserError naming the file system's reason where a save cannot be written.
    """

    def __init__(self, directory: Path):
        options = ocp.CheckpointManagerOptions(max_to_keep=2, cleanup_tmp_directories=True)
        self.directory = directory / "checkpoints"
        self._manager = ocp.CheckpointManager(self.directory.resolve(), options=options)

    def latest(self) -> int | None:
        """Give the newest complete step, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState) -> None:
        """Start saving; returns as soon as the arrays are copied from the devices."""
        if step in self._manager.all_steps():
            return
        try:
            self._manager.save(step, args=ocp.args.StandardSave(_as_dict(state)), force=True)
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

    def restore(self, step: int, state: Any, shardings: Any) -> TrainState:
        """Restore into the shapes of ``state`` and any ``shardings``, whatever topology saved it."""
        abstract = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            _as_dict(state),
            _as_dict(shardings),
        )
        try:
            restored = self._manager.restore(step, args=ocp.args.StandardRestore(abstract))
        except Exception as error:  # orbax and tensorstore tell of damage in a dozen ways
            _let_through(error)
            raise _damaged(self.directory / str(step), error) from error
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
    return max(ocp.utils.checkpoint_steps(folder.resolve()), default=None) if folder.is_dir() else None


def read_student(directory: Path, step: int, shapes: Any, *, best: bool = False) -> Params:
    """Read only the student's parameters of a checkpoint, the last or the best, as numpy float32 leaves of ``shapes``."""
    from orbax.checkpoint import v1

    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), shapes)
    context = v1.Context()
    context.pytree_options.loading.partial_load = True
    folder = (directory / "checkpoints" / str(step)).resolve()
    try:
        with context:
            part = "best" if best else "params"
            read = v1.load(folder, {part: {"student": shapes}}, checkpointable_name="default")
        student: Params = jax.device_get(read[part]["student"])
    except Exception as error:  # as above
        _let_through(error)
        raise _damaged(folder, error) from error
    return student


def _let_through(error: Exception) -> None:
    """Raise what is no damage: what may not be read, and what there is no memory for."""
    if isinstance(error, (PermissionError, MemoryError)) or out_of_memory(error):
        raise error


def _damaged(folder: Path, error: Exception) -> UserError:
    return UserError(
        f"{folder} is damaged or of another student ({brief(error)}); move that folder away to go on from the checkpoint "
        "before"
    )


def _as_dict(state: Any) -> Mapping[str, Any]:
    names = ("step", "params", "opt_state", "next_index", *(["best"] if state.best else []))
    return {name: getattr(state, name) for name in names}

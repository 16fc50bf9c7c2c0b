"""Checkpoints are restored exactly, or damage is detected."""

import errno

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flaxdistill.errors import UserError
from flaxdistill.runtime import sharding
from flaxdistill.train import checkpoint
from flaxdistill.train.checkpoint import Checkpoints, latest_step, read_student
from flaxdistill.train.checksum import checksums
from flaxdistill.train.state import make_state

SIZE = (300, 500)


def state_of(seed: int, *, best: bool = False):
    bits = np.random.default_rng(seed).integers(0, 2**32, SIZE, np.uint32)
    # Without bit 30 every number is finite. Random bits are stored uncompressed.
    kernel = jnp.asarray((bits & ~np.uint32(1 << 30)).view(np.float32))
    student = {"kernel": kernel, "bias": jnp.zeros(3)}
    return make_state({"student": student, "losses": {}}, optax.sgd(0.1), track_best=best)


def save(path, *seeds: int, best: bool = False):
    checkpoints = Checkpoints(path)
    for seed in seeds:
        checkpoints.save(seed, state_of(seed, best=best))
        checkpoints.wait(seed)
    checkpoints.close()


def restore(path, *, fsdp: int = 1, best: bool = False):
    lines: list[str] = []
    shapes = jax.eval_shape(lambda: state_of(0, best=best))
    state = Checkpoints(path).restore(
        shapes, sharding.state_shardings(shapes, sharding.make_mesh(fsdp), ()), lines.append
    )
    return state, lines


def flip_a_bit(path, step: int) -> None:
    """Flip one bit in the middle of the largest file, which holds the kernel."""
    file = max(
        (f for f in (path / "checkpoints" / str(step)).rglob("*") if f.is_file()),
        key=lambda f: f.stat().st_size,
    )
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)


@pytest.mark.parametrize("fsdp", [1, 4])
@pytest.mark.parametrize("best", [False, True])
def test_a_checkpoint_is_restored_exactly(tmp_path, fsdp, best):
    save(tmp_path, 1, 2, best=best)
    state, lines = restore(tmp_path, fsdp=fsdp, best=best)
    jax.tree.map(
        np.testing.assert_array_equal, jax.device_get(state), jax.device_get(state_of(2, best=best))
    )
    assert lines == []
    assert restore(tmp_path / "empty") == (None, [])


def test_a_flipped_bit_is_detected(tmp_path, monkeypatch):
    save(tmp_path, 1, 2)
    flip_a_bit(tmp_path, 2)
    shapes = jax.eval_shape(lambda: state_of(0))
    with pytest.raises(UserError, match="1 of 2 arrays of params are not as they were saved"):
        read_student(tmp_path, 2, shapes.params["student"])
    # Without the checksums, the damage is not detected.
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_compare_checksums", lambda stored, computed: None)
        read = read_student(tmp_path, 2, shapes.params["student"])
        wrong = np.count_nonzero(read["kernel"] != state_of(2).params["student"]["kernel"])
        assert wrong == 1

    state, lines = restore(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), jax.device_get(state_of(1)))
    assert "2 is damaged" in lines[0] and "resumes from step 1" in lines[1] and len(lines) == 2
    assert latest_step(tmp_path) == 1
    save(tmp_path, 2)  # the damaged checkpoint is renamed
    assert latest_step(tmp_path) == 2 and restore(tmp_path)[1] == []


def test_all_checkpoints_damaged(tmp_path):
    save(tmp_path, 1, 2)
    for step in (1, 2):
        flip_a_bit(tmp_path, step)
    before = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    with pytest.raises(UserError, match=r"^no checkpoint in .* can be read; move that folder away"):
        restore(tmp_path)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == before


@pytest.mark.parametrize("type_", [np.float32, np.int32, np.bool_, jnp.bfloat16])
def test_checksums_depend_on_values_and_positions(type_):
    x = (np.arange(24).reshape(2, 3, 4) % 5 > 1).astype(type_)
    expected = checksums({"x": x})
    assert expected.shape == (1,) and expected.dtype == jnp.uint32
    for other in (x[::-1], x[:, ::-1], x[..., ::-1], np.zeros_like(x), np.ones_like(x)):
        assert checksums({"x": other}) != expected


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ESTALE, "Stale file handle"),
        PermissionError(errno.EACCES, "Permission denied"),
        ValueError("Error opening driver [os_error_code='EIO'] [source locations='x']"),
    ],
)
def test_unreadable_storage_is_not_damage(tmp_path, monkeypatch, error):
    save(tmp_path, 1, 2)

    def fail(*args, **kwargs):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.ocp.Checkpointer, "restore", fail)
        with pytest.raises(UserError, match="a checkpoint cannot be read now"):
            restore(tmp_path)
    assert latest_step(tmp_path) == 2 and restore(tmp_path)[1] == []

"""Device meshes, and the sharding of states and batches."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.tiny import batch_of, tiny_config
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from flaxdistill import param_paths
from flaxdistill.errors import UserError
from flaxdistill.models.architecture import shapes_of
from flaxdistill.models.bert import Bert
from flaxdistill.pytrees import Batch
from flaxdistill.runtime import sharding
from flaxdistill.runtime.mesh_axes import num_shards
from flaxdistill.train.optimizer import AdamW
from flaxdistill.train.state import make_state


def shape(*sizes: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


def state_of(params, tx=None):
    tx = tx or AdamW(weight_decay=0.01).build(10)
    return jax.eval_shape(lambda p: make_state(p, tx), params)


def specs(state, fsdp: int, tensor: int = 1) -> dict[str, P]:
    shardings = sharding.state_shardings(state, sharding.make_mesh(fsdp, tensor), Bert.sharding)
    assert jax.tree.structure(shardings) == jax.tree.structure(state)
    return {path: s.spec for path, s in param_paths.flatten(shardings).items()}


def test_mesh():
    mesh = sharding.make_mesh(2)
    assert (
        dict(mesh.shape) == {"data": 4, "fsdp": 2, "tensor": 1}
        and mesh.axis_types == (AxisType.Auto,) * 3
    )
    assert dict(sharding.make_mesh(devices=jax.devices()[:1]).shape) == {
        "data": 1,
        "fsdp": 1,
        "tensor": 1,
    }
    assert (
        sharding.data_parallel_size(sharding.make_mesh(2, 2)) == 4
        and sharding.round_up(5, sharding.make_mesh(2, 2)) == 8
    )
    with pytest.raises(UserError) as error:
        sharding.make_mesh(3)
    assert str(error.value) == "fsdp 3 does not divide the 8 devices; use one of 1, 2, 4, 8"
    with pytest.raises(UserError) as error:
        sharding.make_mesh(2, 8)
    assert (
        str(error.value) == "fsdp 2 x tensor 8 does not divide the 8 devices; use one of 1, 2, 4, 8"
    )


@pytest.mark.parametrize(
    ("size", "accumulate", "devices", "message"),
    [
        (
            101,
            1,
            -4,
            "batch_size 101 is not divisible by 4 groups of 2 devices; nearest are 100 and 104",
        ),
        (100, 1, 8, "batch_size 100 is not divisible by 8 devices; nearest are 96 and 104"),
        (
            100,
            3,
            8,
            "batch_size 100 is not divisible by 8 devices x 3 micro-batches; "
            "nearest are 96 and 120",
        ),
        (3, 1, 8, "batch_size 3 is not divisible by 8 devices; nearest are 8"),
        (
            10,
            4,
            1,
            "batch_size 10 is not divisible by 1 devices x 4 micro-batches; nearest are 8 and 12",
        ),
    ],
)
def test_batch_sizes_that_do_not_divide(size, accumulate, devices, message):
    mesh = (
        sharding.make_mesh(devices=jax.devices()[:devices])
        if devices > 0
        else sharding.make_mesh(2, 2)
    )
    with pytest.raises(UserError) as error:
        sharding.check_batch(size, accumulate, mesh)
    assert str(error.value) == message
    for near in message.split("nearest are ")[1].split(" and "):
        sharding.check_batch(int(near), accumulate, mesh)


@pytest.mark.parametrize(("fsdp", "tensor"), [(1, 1), (2, 1), (8, 1), (2, 2)])
def test_rules_cover_a_whole_state(fsdp, tensor):
    config = tiny_config(pooler=True, tied_head=False)
    params = {
        "student": shapes_of(config),
        "losses": {
            "hidden": {"projection": {"kernel": shape(16, 24), "bias": shape(24)}},
            "vocab": {},
        },
    }
    actual = specs(state_of(params), fsdp, tensor)
    student = "params/student/"
    expected = {
        "step": P(),
        "params/losses/hidden/projection/kernel": P("fsdp", None),
        "params/losses/hidden/projection/bias": P(),
        student + "layer_0/query/kernel": P("fsdp", "tensor"),
        student + "layer_1/attention/kernel": P("tensor", "fsdp"),
        student + "layer_1/inner/kernel": P("fsdp", "tensor"),
        student + "layer_1/outer/kernel": P("tensor", "fsdp"),
        student + "pooler/kernel": P("fsdp", None),
        student + "layer_1/norm/scale": P(),
        student + "mlm/bias": P(),
        student + "embeddings/word/embedding": P(None, ("fsdp", "tensor")),
        student + "mlm/decoder/embedding": P(None, ("fsdp", "tensor")),
    }
    assert {path: actual[path] for path in expected} == expected
    # The moments are sharded like their parameters.
    for moment in ("mu", "nu"):
        paths = [path for path in actual if f"/{moment}/" in path]
        assert len(paths) == len(jax.tree.leaves(params))
        assert all(
            actual[path] == actual["params/" + path.split(f"/{moment}/")[1]] for path in paths
        )
    assert {actual[path] for path in actual if path.endswith(("count", "finite"))} == {P()}


def test_an_indivisible_leaf_takes_the_next_spec():
    """30 is divisible by neither 4 nor 8; a leaf that no spec divides is replicated."""
    params = {
        "a": {"kernel": shape(30, 16)},
        "b": {"kernel": shape(30, 30)},
        "c": {"embedding": shape(16, 30)},
        "d": {"kernel": shape(16, 30)},
    }
    actual = specs(state_of(params, optax.sgd(0.1)), 4)
    assert actual == {
        "step": P(),
        "params/a/kernel": P(None, "fsdp"),
        "params/b/kernel": P(),
        "params/c/embedding": P(),
        "params/d/kernel": P("fsdp", None),
    }


def test_a_leaf_without_a_rule_is_an_error():
    state = state_of({"losses": {"hidden": {"matrix": shape(4, 4)}}}, optax.sgd(0.1))
    with pytest.raises(
        UserError,
        match=r"^no sharding rule matches params/losses/hidden/matrix; add one to the table$",
    ):
        sharding.state_shardings(state, sharding.make_mesh(), Bert.sharding)


def test_a_compiled_function_sees_the_shards_of_its_rows():
    assert num_shards(16) == 1
    with jax.set_mesh(sharding.make_mesh(2)):
        assert (num_shards(16), num_shards(12)) == (8, 1)
    with jax.set_mesh(sharding.make_mesh(2, 2)):
        assert (num_shards(16), num_shards(12), num_shards(6)) == (8, 4, 1)


def test_place_rows():
    rows, mesh = batch_of(16), sharding.make_mesh(2)
    batch = sharding.place_rows(rows, mesh)
    assert isinstance(batch, Batch) and batch.label_positions.shape == (16, 0)
    assert batch.targets == {}
    for field in dataclasses.fields(Batch):
        value = getattr(batch, field.name)
        if field.name == "targets":
            continue
        assert value.sharding.is_equivalent_to(
            NamedSharding(mesh, P(("data", "fsdp"))), value.ndim
        ), field.name
        if field.name in rows:
            np.testing.assert_array_equal(value, rows[field.name])
            assert value.dtype == rows[field.name].dtype
    shards = [(s.device.id, s.data[0].item()) for s in batch.example_id.addressable_shards]
    assert sorted(shards) == [(device, 2 * device) for device in range(8)], (
        "each device has two consecutive rows"
    )


def scan_micro_batches(accumulate: int, function=sharding.micro_batches):
    """Compile and run a scan that sums over micro-batches; return its HLO and its result."""
    mesh = sharding.make_mesh()
    batch = sharding.place_rows(batch_of(32), mesh)

    def total(batch):
        def add(carry, micro):
            return carry + jnp.sum(micro.input_ids * micro.segment_ids), micro.example_id

        return jax.lax.scan(add, jnp.int32(0), function(batch, accumulate))

    with jax.set_mesh(mesh):
        program = jax.jit(total).lower(batch).compile()
        return program.as_text(), jax.device_get(program(batch))


def test_micro_batches_stay_on_their_devices():
    text, (total, examples) = scan_micro_batches(4)
    assert (
        "all-gather" not in text and "all-to-all" not in text and "collective-permute" not in text
    )
    rows = batch_of(32)
    assert total == (rows["input_ids"] * rows["segment_ids"]).sum()
    assert examples.shape == (4, 8) and sorted(examples.ravel()) == list(range(32))
    assert sorted(examples[0]) == list(range(0, 32, 4)), "one of the four rows of each device"


def test_a_plain_reshape_gathers():
    """The reason for micro_batches; if this fails, XLA avoids the gather and the swap can go."""

    def plain(batch, n):
        return jax.tree.map(
            lambda x: x.reshape(n, -1, *x.shape[1:]),
            dataclasses.replace(batch, labels=batch.weight, label_positions=batch.weight),
        )

    text, _ = scan_micro_batches(4, plain)
    assert any(name in text for name in ("all-gather", "all-to-all", "collective-permute"))


def test_micro_batches_without_a_mesh():
    rows = batch_of(6)
    batch = Batch(**rows, label_positions=rows["labels"])
    actual = jax.jit(sharding.micro_batches, static_argnums=1)(batch, 3)
    assert actual.input_ids.shape == (3, 2, 24) and actual.labels.shape == (3, 2, 0)
    np.testing.assert_array_equal(actual.example_id, [[0, 3], [1, 4], [2, 5]])

"""Numbers that move with the step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxdistill.errors import UserError
from flaxdistill.losses.schedule import Schedule, constant


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2", Schedule(2, 2)),
        ("0.5", Schedule(0.5, 0.5)),
        ("4:1:1000", Schedule(4, 1, 1000)),
        ("0:1:0", Schedule(0, 1, 0)),
        ("-1:1e-3:10", Schedule(-1, 0.001, 10)),
        ("0.123456789:1:7", Schedule(0.123456789, 1, 7)),
    ],
)
def test_reads_and_writes(text, expected):
    assert Schedule.parse(text) == expected
    assert Schedule.parse(str(expected)) == expected


def test_is_written_as_it_was_read():
    assert [str(Schedule.parse(t)) for t in ("2", "0.5", "4:1:1000")] == ["2", "0.5", "4:1:1000"]
    assert str(constant(3.0)) == "3"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "two",
        "4:1",
        "4:1:10:2",
        "4:1:ten",
        "4:1:1.5",
        "4:1:-1",
        "nan",
        "inf",
        "1:inf:3",
        ":",
        "1,2",
    ],
)
def test_refuses(text):
    with pytest.raises(UserError) as error:
        Schedule.parse(text)
    assert str(error.value) == (
        f"{text!r} is no schedule: write one number such as 2, or start:end:steps such as 4:1:1000"
    )


def test_a_line_and_then_its_end():
    schedule = Schedule(4, 1, 1000)
    got = [float(schedule(step)) for step in (0, 1, 500, 999, 1000, 10**9)]
    np.testing.assert_allclose(got, [4, 3.997, 2.5, 1.003, 1, 1], rtol=1e-6)
    assert float(Schedule(4, 1, 0)(0)) == 1
    assert float(constant(2.5)(10**6)) == 2.5


def test_traced_and_strict():
    with jax.numpy_dtype_promotion("strict"):
        for schedule in (Schedule(4, 1, 10), constant(2.0)):
            value = jax.jit(schedule)(jnp.int32(5))
            assert value.dtype == jnp.float32 and value.shape == ()
            np.testing.assert_allclose(value, schedule(5))


@pytest.mark.parametrize("values", [(float("nan"), 1.0, 0), (1.0, float("inf"), 3), (4.0, 1.0, -5)])
def test_numbers_that_make_no_schedule(values):
    with pytest.raises(UserError, match="give finite numbers"):
        Schedule(*values)

"""Schedules: values, text, and numbers in the fields of a loss."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxdistill.errors import UserError
from flaxdistill.experiment.serialization import from_json
from flaxdistill.losses.cosine import HiddenCosine
from flaxdistill.losses.hidden import HiddenMSE
from flaxdistill.losses.labels import Labels, SoftLabels
from flaxdistill.losses.relation import AttentionScores, Relation
from flaxdistill.losses.schedule import Schedule, constant
from flaxdistill.losses.vocab import MaskedLM, VocabKD
from flaxdistill.runtime.class_json import to_json


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
def test_parse_inverts_str(text, expected):
    assert Schedule.parse(text) == expected
    assert Schedule.parse(str(expected)) == expected


def test_str_is_the_shortest_text():
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
def test_parse_refuses(text):
    with pytest.raises(UserError) as error:
        Schedule.parse(text)
    assert str(error.value) == (
        f"{text!r} is not a schedule; write a number such as 2, or start:end:steps such as 4:1:1000"
    )


def test_linear_then_constant():
    schedule = Schedule(4, 1, 1000)
    values = [float(schedule(step)) for step in (0, 1, 500, 999, 1000, 10**9)]
    np.testing.assert_allclose(values, [4, 3.997, 2.5, 1.003, 1, 1], rtol=1e-6)
    assert float(Schedule(4, 1, 0)(0)) == 1
    assert float(constant(2.5)(10**6)) == 2.5


def test_value_at_is_a_python_float_if_constant():
    assert constant(2.0).value_at(jnp.int32(5)) == 2.0
    assert isinstance(constant(2.0).value_at(jnp.int32(5)), float)
    moving = Schedule(4, 1, 10).value_at(jnp.int32(5))
    assert isinstance(moving, jax.Array) and moving == Schedule(4, 1, 10)(5)


def test_traced_with_strict_types():
    with jax.numpy_dtype_promotion("strict"):
        for schedule in (Schedule(4, 1, 10), constant(2.0)):
            value = jax.jit(schedule)(jnp.int32(5))
            assert value.dtype == jnp.float32 and value.shape == ()
            np.testing.assert_allclose(value, schedule(5))


@pytest.mark.parametrize("values", [(float("nan"), 1.0, 0), (1.0, float("inf"), 3), (4.0, 1.0, -5)])
def test_values_that_are_not_a_schedule(values):
    with pytest.raises(UserError, match="give finite numbers"):
        Schedule(*values)


FIELDS = [
    (cls, field.name)
    for cls in (Labels, SoftLabels, HiddenCosine, HiddenMSE, Relation, AttentionScores, MaskedLM)
    for field in dataclasses.fields(cls)
    if field.name in ("weight", "temperature")
] + [(VocabKD, "kl"), (VocabKD, "mlm"), (VocabKD, "temperature")]


@pytest.mark.parametrize(("cls", "name"), FIELDS)
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3.0, constant(3.0)),
        (3, constant(3.0)),
        (np.float32(0.5), constant(0.5)),
        ("4:1:1000", Schedule(4.0, 1.0, 1000)),
        (Schedule(4.0, 1.0, 1000), Schedule(4.0, 1.0, 1000)),
    ],
)
def test_fields_of_a_loss_accept_numbers_and_text(cls, name, value, expected):
    loss, reference = cls(**{name: value}), cls(**{name: expected})
    schedule = getattr(loss, name)
    assert isinstance(schedule, Schedule) and isinstance(schedule.start, float)
    assert loss == reference and hash(loss) == hash(reference)
    stored = json.dumps(to_json(loss))
    assert stored == json.dumps(to_json(reference))
    assert from_json(json.loads(stored), source="here") == loss


def test_fields_of_a_subclass():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Extended(MaskedLM):
        bonus: Schedule = constant(1.0)

    assert Extended(bonus=2, weight="3") == Extended(bonus=constant(2.0), weight=constant(3.0))


def test_numbers_are_the_default_schedules():
    assert VocabKD(kl=5.0, mlm=2.0, temperature=2.0) == VocabKD()
    assert dataclasses.replace(VocabKD(), kl=1) == VocabKD(kl=constant(1.0))


@pytest.mark.parametrize("value", [None, True, (1.0, 2.0), "4:1", float("nan"), 10**400])
def test_other_values_name_the_field(value):
    with pytest.raises(UserError, match=r"^VocabKD\.temperature: "):
        VocabKD(temperature=value)
    with pytest.raises(UserError, match="temperature is 0; it must be above 0"):
        VocabKD(temperature=0)

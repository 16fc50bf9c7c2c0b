"""Chips that are not here: what they hold, compute, send and cost, and how many of them there are."""

from __future__ import annotations

import dataclasses
import math
import re
import tomllib
from pathlib import Path
from typing import Any, Literal

from flaxdistill.errors import UserError

TABLE = Path(__file__).with_name("chips.toml")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """One kind of chip, as ``chips.toml`` tells of it."""

    name: str
    platform: Literal["tpu", "gpu"]
    hbm_gib: float
    tflops: float
    hbm_gb_s: float
    link_gb_s: float
    network_gb_s: float
    utilisation: tuple[float, float]
    dollars_hour: float
    chips_a_node: int = 0  # GPUs only

    def __post_init__(self):
        if self.platform not in ("tpu", "gpu"):
            raise UserError(f"{self.name}: platform is {self.platform!r}; it is tpu or gpu")
        for field in ("hbm_gib", "tflops", "hbm_gb_s", "link_gb_s", "network_gb_s"):
            if not 0 < getattr(self, field) < math.inf:
                raise UserError(
                    f"{self.name}: {field} is {getattr(self, field)}; it must be above 0"
                )
        low, high = self.utilisation
        if not 0 < low <= high <= 1:
            raise UserError(
                f"{self.name}: utilisation is {low}, {high}; it rises from above 0 to at most 1"
            )
        if not 0 <= self.dollars_hour < math.inf:
            raise UserError(
                f"{self.name}: dollars_hour is {self.dollars_hour}; it is a price, or 0"
            )
        if self.platform == "gpu" and self.chips_a_node < 1:
            raise UserError(
                f"{self.name}: chips_a_node is {self.chips_a_node}; a node has at least 1 GPU"
            )


@dataclasses.dataclass(frozen=True)
class Topology:
    """Chips in a shape, such as v5e:16x16, once or in several ``slices`` that a data centre's network joins."""

    chip: Chip
    shape: tuple[int, ...]
    slices: int

    def __str__(self) -> str:
        each = f"{self.chip.name}:{'x'.join(map(str, self.shape))}"
        return each if self.slices == 1 else f"{self.slices} slices of {each}"

    @property
    def size(self) -> int:
        """Count the chips."""
        return math.prod(self.shape) * self.slices

    @property
    def near(self) -> int:
        """Count the chips that fast links join: a slice of TPUs, a node of GPUs."""
        inside = math.prod(self.shape)
        return min(inside, self.chip.chips_a_node) if self.chip.platform == "gpu" else inside


def read_topology(told: str, slices: int = 1, table: Path = TABLE) -> Topology:
    """Read KIND:SHAPE, such as v5e:16x16 or h100:8; raises UserError for a kind that the table lacks, and no shape."""
    chips = read_chips(table)
    kind, _, shape = told.partition(":")
    if kind not in chips:
        raise UserError(f"there is no chip {kind!r} in {table.name}; known are {', '.join(chips)}")
    if not re.fullmatch(r"[1-9]\d{0,5}(x[1-9]\d{0,5}){0,2}", shape):
        example = "v5e:16x16" if chips[kind].platform == "tpu" else f"{kind}:8"
        raise UserError(
            f"--topology is {told}; after the kind of chip comes its shape, such as {example}"
        )
    if slices < 1:
        raise UserError(f"--slices is {slices}; it must be at least 1")
    return Topology(chips[kind], tuple(map(int, shape.split("x"))), slices)


def read_chips(table: Path = TABLE) -> dict[str, Chip]:
    """Read a table of chips; raises UserError naming the chip and what it lacks."""
    try:
        given = tomllib.loads(table.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{table} is no TOML: {error}") from None
    except OSError as error:
        raise UserError(
            f"{table} cannot be read: {error.strerror}; name a table in --chips"
        ) from None
    return {name: _chip(name, facts, table) for name, facts in given.items()}


def _chip(name: str, facts: Any, table: Path) -> Chip:
    fields = {field.name: field for field in dataclasses.fields(Chip) if field.name != "name"}
    if not isinstance(facts, dict):
        raise UserError(f"{table}: {name} stands outside of any [chip]; put it below one")
    needed = {n for n, field in fields.items() if field.default is dataclasses.MISSING}
    if wrong := (set(facts) - set(fields)) | (needed - set(facts)):
        raise UserError(
            f"{table}: [{name}] differs from what a chip has in {', '.join(sorted(wrong))}"
        )
    for field, value in facts.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        pair = (
            isinstance(value, list)
            and len(value) == 2
            and all(isinstance(v, int | float) for v in value)
        )
        fits = {"platform": isinstance(value, str), "utilisation": pair}.get(field, number)
        if not fits:
            raise UserError(f"{table}: [{name}] has {field} {value!r}; write it as in {TABLE.name}")
    return Chip(name=name, **facts | {"utilisation": tuple(facts["utilisation"])})

"""Accelerators to plan for: memory, peak rates, bandwidth, price and topology."""

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
    """One kind of accelerator, as listed in ``chips.toml``."""

    name: str
    platform: Literal["tpu", "gpu"]
    hbm_gib: float
    """Memory of a chip, GiB."""
    tflops: float
    """Peak of bfloat16 matrix products, TFLOP/s."""
    hbm_gb_s: float
    """Memory bandwidth, GB/s."""
    link_gb_s: float
    """Bandwidth of all links to neighbouring chips, GB/s."""
    network_gb_s: float
    """Bandwidth of a chip beyond its slice (TPU) or node (GPU), GB/s."""
    utilisation: tuple[float, float]
    """Lowest and highest fraction of the peak that matrix products are assumed to reach."""
    dollars_hour: float
    """Price of a chip per hour."""
    chips_a_node: int = 0
    """GPUs joined by fast links; unused for TPUs."""

    def __post_init__(self):
        if self.platform not in ("tpu", "gpu"):
            raise UserError(f"{self.name}: platform is {self.platform!r}; use tpu or gpu")
        for field in ("hbm_gib", "tflops", "hbm_gb_s", "link_gb_s", "network_gb_s"):
            if not 0 < getattr(self, field) < math.inf:
                raise UserError(
                    f"{self.name}: {field} is {getattr(self, field)}; it must be above 0"
                )
        low, high = self.utilisation
        if not 0 < low <= high <= 1:
            raise UserError(
                f"{self.name}: utilisation is {low}, {high}; give the lower end first, both "
                "above 0 and at most 1"
            )
        if not 0 <= self.dollars_hour < math.inf:
            raise UserError(
                f"{self.name}: dollars_hour is {self.dollars_hour}; use a price, or 0 if unknown"
            )
        if self.platform == "gpu" and self.chips_a_node < 1:
            raise UserError(
                f"{self.name}: chips_a_node is {self.chips_a_node}; a node has at least 1 GPU"
            )


@dataclasses.dataclass(frozen=True)
class Topology:
    """Chips in a shape, such as v5e:16x16; the data centre network joins several ``slices``."""

    chip: Chip
    shape: tuple[int, ...]
    slices: int

    def __str__(self) -> str:
        one_slice = f"{self.chip.name}:{'x'.join(map(str, self.shape))}"
        return one_slice if self.slices == 1 else f"{self.slices} slices of {one_slice}"

    @property
    def size(self) -> int:
        """Return the number of chips."""
        return math.prod(self.shape) * self.slices

    @property
    def linked(self) -> int:
        """Return the number of chips that fast links join: a slice of TPUs or a node of GPUs."""
        per_slice = math.prod(self.shape)
        return min(per_slice, self.chip.chips_a_node) if self.chip.platform == "gpu" else per_slice


def read_topology(spec: str, slices: int = 1, table: Path = TABLE) -> Topology:
    """Parse KIND:SHAPE, such as v5e:16x16 or h100:8.

    Raises UserError for a kind that the table does not list and for a malformed shape.
    """
    chips = read_chips(table)
    kind, _, shape = spec.partition(":")
    if kind not in chips:
        raise UserError(f"--topology: no chip {kind!r} in {table.name}; use {', '.join(chips)}")
    if not re.fullmatch(r"[1-9]\d{0,5}(x[1-9]\d{0,5}){0,2}", shape):
        example = "v5e:16x16" if chips[kind].platform == "tpu" else f"{kind}:8"
        raise UserError(f"--topology is {spec}; use KIND:SHAPE, such as {example}")
    if slices < 1:
        raise UserError(f"--slices is {slices}; it must be at least 1")
    return Topology(chips[kind], tuple(map(int, shape.split("x"))), slices)


def read_chips(table: Path = TABLE) -> dict[str, Chip]:
    """Read a table of chips. Raises UserError naming the chip and the wrong field."""
    try:
        chips = tomllib.loads(table.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{table} is not valid TOML: {error}") from None
    except OSError as error:
        raise UserError(
            f"{table} cannot be read: {error.strerror}; give another table with --chips"
        ) from None
    return {name: _read_chip(name, values, table) for name, values in chips.items()}


def _read_chip(name: str, values: Any, table: Path) -> Chip:
    fields = {field.name: field for field in dataclasses.fields(Chip) if field.name != "name"}
    if not isinstance(values, dict):
        raise UserError(f"{table}: {name} is outside of any [chip] section; move it into one")
    required = {n for n, field in fields.items() if field.default is dataclasses.MISSING}
    if unknown := set(values) - set(fields):
        raise UserError(f"{table}: [{name}] has unknown fields: {', '.join(sorted(unknown))}")
    if missing := required - set(values):
        raise UserError(f"{table}: [{name}] lacks {', '.join(sorted(missing))}")
    for field, value in values.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        is_pair = (
            isinstance(value, list)
            and len(value) == 2
            and all(isinstance(v, int | float) for v in value)
        )
        valid = {"platform": isinstance(value, str), "utilisation": is_pair}
        if not valid.get(field, is_number):
            raise UserError(
                f"{table}: [{name}] has {field} {value!r}; see {TABLE.name} for the type"
            )
    return Chip(name=name, **values | {"utilisation": tuple(values["utilisation"])})

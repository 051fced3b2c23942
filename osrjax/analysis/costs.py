"""What a compiled program costs on many chips, on paper: its collectives, and how long they and its arithmetic take.

Nothing here runs a program. :func:`collectives` reads the optimised HLO of a compiled one, the rest is arithmetic
with the chip's published figures, so every time is what the hardware allows at best.
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

__all__ = ["CHIPS", "PURPOSES", "Chip", "Collective", "StepCost", "break_even_batch", "collectives", "step_cost"]

_BITS = {"pred": 8, "c64": 64, "c128": 128}


PURPOSES = ("gradients", "statistics", "rows")


_KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


_OPERATION = re.compile(rf"= (.*?) ({'|'.join(_KINDS)})(-start)?\(")


_ARRAY = re.compile(r"\b(pred|[suf]\d+\w*|bf16|c64|c128)\[([\d,]*)\]")


class Collective(NamedTuple):
    """One communication of all devices, as one of them sees it: bytes that it gives, by what they are for.

    Attributes:
      kind: the HLO operation, such as "all-reduce".
      gradients: all-reduced arrays of the sides of a parameter with two or more axes, and all arrays of at most one
        axis in the same all-reduce. Axes of length 1 do not count.
      statistics: all-reduced arrays of at most one axis otherwise, and two side by side of the length of a parameter
        with one axis: batch norm and metrics.
      rows: everything else, which are rows of batches.
    """

    kind: str
    gradients: int = 0
    statistics: int = 0
    rows: int = 0

    @property
    def size(self) -> int:
        """Bytes that it gives."""
        return self.gradients + self.statistics + self.rows

    @property
    def purpose(self) -> str:
        """What most of its bytes are for."""
        return max(PURPOSES, key=lambda name: getattr(self, name))

    def sent(self, devices: int) -> float:
        r"""Bytes that a device sends around a ring of all devices.

        .. math:: 2 \tfrac{n-1}{n} S \text{ (all-reduce)}, \quad (n-1) S \text{ (reduce-scatter)}, \quad
                  S \text{ (permute)}, \quad \tfrac{n-1}{n} S \text{ (others)}.

        Args:
          devices: n, at least 1.

        Returns:
          The bytes; S is :attr:`size`, the size of what the operation gives.
        """
        share = (devices - 1) / devices
        factors = {"all-reduce": 2 * share, "reduce-scatter": float(devices - 1), "collective-permute": 1.0}
        return self.size * (factors.get(self.kind, share) if devices > 1 else 0.0)


def collectives(hlo: str, parameters: Iterable[tuple[int, ...]]) -> list[Collective]:
    """The collectives of a compiled program, in the order of its text.

    One inside a loop counts once. Of an asynchronous pair only the start counts.

    Args:
      hlo: optimised HLO, such as ``compiled.as_text()``.
      parameters: their shapes.

    Returns:
      The collectives; none for a program of one device.

    Example:
      >>> line = "%sum = (f32[3,8]{1,0}, bf16[4]{0}) all-reduce(%a, %b), replica_groups={{0,1}}"
      >>> collectives(line, parameters=[(3, 8), (4,)])
      [Collective(kind='all-reduce', gradients=104, statistics=0, rows=0)]
    """
    sides = [_sides(shape) for shape in parameters]  # of transposes too
    matrices = {found for found in sides if len(found) > 1}
    pairs = {_sides((2, *found)) for found in sides if len(found) == 1} - matrices  # a batch norm's sums in one array
    found = []
    for result, kind, start in _OPERATION.findall(hlo):
        arrays = [(name, tuple(int(n) for n in size.split(",") if n)) for name, size in _ARRAY.findall(result)]
        if start and kind == "all-gather":  # all that goes in, then all that comes out
            arrays = arrays[len(arrays) // 2 :]
        elif start and kind == "collective-permute":  # what goes in, what comes out, and contexts
            arrays = arrays[1:2]
        sizes = dict.fromkeys(PURPOSES, 0)
        vectors = "gradients" if any(_sides(shape) in matrices for _, shape in arrays) else "statistics"
        for name, shape in arrays:
            if kind != "all-reduce":
                purpose = "rows"
            elif _sides(shape) in matrices:
                purpose = "gradients"
            else:
                purpose = vectors if len(_sides(shape)) < 2 or _sides(shape) in pairs else "rows"
            sizes[purpose] += _bytes(name, shape)
        found.append(Collective(kind, **sizes))
    return found


def _sides(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted(side for side in shape if side != 1))


def _bytes(name: str, shape: tuple[int, ...]) -> int:
    bits = _BITS.get(name) or int(re.findall(r"\d+", name)[0])
    return math.prod(shape) * bits // 8


class Chip(NamedTuple):
    """The figures of a chip that bound a training step, in operations, bytes and seconds.

    Attributes:
      flops: operations a second of matrix products at JAX's default precision for float32.
      memory: bytes a second between chip and memory.
      link: bytes a second that a chip sends in a collective over neighbours.
      island: chips that are neighbours; a collective over more goes at ``far_link``.
      far_link: bytes a second that a chip sends between islands.
      hop: seconds from chip to chip.
      axes: of the torus that the chips form; 0: all chips behind switches.
      highest_flops: as ``flops``, at the highest precision, in which norms are exact.
    """

    flops: float
    memory: float
    link: float
    island: int
    far_link: float
    hop: float
    axes: int
    highest_flops: float

    def at_highest_precision(self) -> "Chip":
        """The chip as it is for programs whose products are all at the highest precision."""
        return self._replace(flops=self.highest_flops)

    def latency(self, devices: int) -> float:
        r"""Seconds of an all-reduce of nothing: there and back along the longest way.

        .. math:: 2 h \sum_a \lfloor s_a / 2 \rfloor \text{ (torus of sides } s_a \text{)}, \qquad
                  2 h \lceil \log_2 n \rceil \text{ (switches)}.

        Args:
          devices: n; the sides of a torus are as equal as powers of two can be.

        Returns:
          The seconds, 0 for one device.
        """
        doublings = math.ceil(math.log2(devices))
        if not self.axes:
            return 2 * self.hop * doublings
        powers = [(doublings + axis) // self.axes for axis in range(self.axes)]
        return 2 * self.hop * sum(2**power // 2 for power in powers)


# One ring along one axis of a torus, both ways round: a link sends half of its bidirectional figure, a ring uses two.
# float32 products take one pass of bfloat16 on a TPU and TF32 on an H100 by JAX's default precision; at the highest six
# passes on a TPU (jax.lax.Precision), and float32 on an H100. The latency of a
# hop is of the order that "How to Scale Your Model" gives for TPUs (https://jax-ml.github.io/scaling-book/tpus/);
# that of the H100, NVLink or InfiniBand, is our guess.
CHIPS: dict[str, Chip] = {
    # https://cloud.google.com/tpu/docs/v5e: 197 TFLOP/s, 819 GB/s, links of 400 GB/s both ways, 4 ports;
    # 6.4 Tb/s of network for a pod
    "v5e": Chip(197e12, 819e9, 100e9, 256, 25e9 / 8, 1e-6, 2, 197e12 / 6),
    # https://cloud.google.com/tpu/docs/v5p: 459 TFLOP/s, 2765 GB/s, links of 1200 GB/s both ways, 6 ports;
    # 50 Gb/s of network a chip
    "v5p": Chip(459e12, 2765e9, 200e9, 8960, 50e9 / 8, 1e-6, 3, 459e12 / 6),
    # https://www.nvidia.com/en-us/data-center/h100/: SXM, TF32 989 TFLOP/s with sparsity, half of it without, FP32 67;
    # 3.35 TB/s; NVLink 900 GB/s in both directions among 8; a 400 Gb/s network port for each GPU of a DGX H100
    "h100": Chip(494.7e12, 3.35e12, 450e9, 8, 50e9, 2e-6, 0, 67e12),
}


@dataclasses.dataclass(frozen=True)
class StepCost:
    """One step on one of several chips, as its compiled program says.

    Attributes:
      devices: number of chips.
      batch: images a chip.
      flops: operations a chip.
      accessed: bytes that a chip's operations read and write.
      peak: bytes of arguments, results and temporaries.
      collectives: what the chips tell each other.
    """

    devices: int
    batch: int
    flops: float
    accessed: float
    peak: int
    collectives: tuple[Collective, ...]

    def arithmetic_seconds(self, chip: Chip) -> float:
        """The longer of operations at the chip's peak and bytes at its memory's bandwidth.

        Args:
          chip: that computes.

        Returns:
          Seconds, at best.
        """
        return max(self.flops / chip.flops, self.accessed / chip.memory)

    def communication_seconds(self, chip: Chip) -> float:
        r"""Time of all collectives, one after another and beside nothing else.

        .. math:: \sum_c \left( t_0(n) + B_c / w \right)

        with the latency t_0 of :meth:`Chip.latency`, the bytes sent B of :meth:`Collective.sent` and the link's w.

        Args:
          chip: that communicates.

        Returns:
          Seconds, at best.
        """
        width = chip.link if self.devices <= chip.island else chip.far_link
        sent = sum(one.sent(self.devices) for one in self.collectives)
        return len(self.collectives) * chip.latency(self.devices) + sent / width


def step_cost(compiled: Any, *, devices: int, batch: int, parameters: Iterable[tuple[int, ...]] = ()) -> StepCost:
    """The costs of a step from its compiled form, which is never run.

    Args:
      compiled: ``jax.jit(step).lower(...).compile()``.
      devices: number of devices that it was compiled for.
      batch: images a device.
      parameters: their shapes, by which gradients are told from rows.

    Returns:
      Figures of one device.
    """
    cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
    peak = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    peak += memory.temp_size_in_bytes
    found = tuple(collectives(compiled.as_text(), parameters))
    return StepCost(devices, batch, float(cost["flops"]), float(cost["bytes accessed"]), int(peak), found)


def break_even_batch(costs: Sequence[StepCost], chip: Chip, *, share: float = 1.0) -> float | None:
    r"""Images a chip from which on communication takes no more than a share of the arithmetic's time.

    Both times are lines through those of two batches, :math:`a(b) = a_0 + a_1 b` and :math:`c(b) = c_0 + c_1 b`; the
    least b with :math:`c(b) \le s\, a(b)`.

    Args:
      costs: steps of two batch sizes on equally many chips.
      chip: whose figures count.
      share: s; at 1 communication can hide behind arithmetic at best, at 0.1 it does not matter even if none hides.

    Returns:
      The batch, at least 1, not rounded; None if no batch is enough, or none from which on every larger one is.

    Raises:
      ValueError: not two different batches on equally many chips.

    Example:
      >>> chip = Chip(100.0, 1e9, 10.0, 8, 1.0, 0.0, 0, 100.0)
      >>> gradients = (Collective("all-reduce", gradients=400),)
      >>> costs = [StepCost(2, batch, 50.0 * batch, 0.0, 0, gradients) for batch in (1, 8)]
      >>> round(break_even_batch(costs, chip), 6)  # 400 bytes in 40 s, half a second an image
      80.0
    """
    if len(costs) != 2 or costs[0].batch == costs[1].batch or costs[0].devices != costs[1].devices:
        given = [(cost.devices, cost.batch) for cost in costs]
        raise ValueError(f"costs of (devices, batch) {given}: give two batches on equally many devices")
    low, high = sorted(costs, key=lambda cost: cost.batch)
    lacks = [cost.communication_seconds(chip) - share * cost.arithmetic_seconds(chip) for cost in (low, high)]
    slope = (lacks[1] - lacks[0]) / (high.batch - low.batch)
    if slope >= 0:
        return 1.0 if max(lacks) <= 0 else None
    return max(1.0, low.batch - lacks[0] / slope)

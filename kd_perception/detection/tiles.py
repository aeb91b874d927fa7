"""Tiles: how a frame much larger than the network's input is cut into overlapping pieces, and how finely a budget allows it.

A tile is never smaller than what the network's input holds at the frame's own scale, so nothing is ever enlarged for its sake;
and it has the input's aspect ratio where the frame allows it, so that what would be gray border is overlap instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from kd_perception.detection.image import BgrImage
from kd_perception.errors import KdPerceptionError

OFF, AUTO, WHOLE = 'off', 'auto', '+whole'
MOST = 16
"""Most columns, and most rows."""
OVERLAP, OVERLAPS = 0.1, (0.0, 0.5)
"""Default, and limits."""
WORTH_IT = 1.1
"""A grid whose tiles show objects not even a tenth larger than a coarser grid does is not worth its additional passes."""
SHARE = 0.9
"""Of the budget for the passes; the rest is for what a warm-up with gray frames does not show: larger resizes, NMS, merging."""

Size = tuple[int, int]
"""Width, height."""


class TilesError(KdPerceptionError):
    """Tiles that cannot be had, such as a grid that nobody can read."""


@dataclass(frozen=True)
class Tile:
    """A rectangle of the frame, in whole pixels; right and bottom are the first ones outside."""

    left: int
    top: int
    right: int
    bottom: int

    def of(self, image: BgrImage) -> BgrImage:
        """The tile's pixels: a view, nothing is copied."""
        return image[self.top : self.bottom, self.left : self.right]


@dataclass(frozen=True)
class Plan:
    """The passes in which frames of one size are seen.

    Attributes:
        frame: the frames' size.
        columns: tiles side by side.
        rows: tiles one below the other.
        scale: input pixels per frame pixel in a tile; 1 is the frame's own scale, and the most there is.
        passes: the tiles row by row, and the whole frame last where it is wanted besides.
        whole_scale: input pixels per frame pixel in the whole frame.
        reason: why so, in a sentence.
    """

    frame: Size
    columns: int
    rows: int
    scale: float
    passes: tuple[Tile, ...]
    whole_scale: float
    reason: str = ''

    @property
    def has_whole(self) -> bool:
        """Whether the last pass is the whole frame beside its tiles."""
        return len(self.passes) > self.columns * self.rows

    def __str__(self) -> str:
        whole = WHOLE if self.has_whole else ''
        count = f'{len(self.passes)} passes' if len(self.passes) > 1 else '1 pass'
        text = (
            f'{self.columns}x{self.rows}{whole} of {self.frame[0]}x{self.frame[1]} at scale {self.scale:.2f}, {count}'
        )
        return f'{text}: {self.reason}' if self.reason else text


Report = Callable[[str], None]


def _say_nothing(line: str) -> None:
    pass


@dataclass(frozen=True)
class Tiling:
    """What is asked for.

    Attributes:
        grid: most columns and rows; None takes the finest that is of use and fits the budget.
        whole: one more pass over the whole frame, for objects that no tile holds.
        overlap: least share of its width and height that a tile has in common with the next, 0 … 0.5. What is not larger than
            the overlap is whole in some tile.
        budget_ms: most milliseconds of a frame, for `grid` None.
        report: takes the plan and its reason when frames of another size arrive.
    """

    grid: tuple[int, int] | None
    whole: bool = False
    overlap: float = OVERLAP
    budget_ms: float = math.inf
    report: Report = field(default=_say_nothing, compare=False)

    def __post_init__(self) -> None:
        if self.grid and not all(1 <= count <= MOST for count in self.grid):
            raise TilesError(f'tiles {self.grid[0]}x{self.grid[1]}: columns and rows go from 1 to {MOST}')
        if not OVERLAPS[0] <= self.overlap <= OVERLAPS[1]:
            raise TilesError(f'tile overlap {self.overlap} is not in [{OVERLAPS[0]}, {OVERLAPS[1]}]')

    @property
    def needs_time(self) -> bool:
        """Whether the plan depends on how long a pass takes."""
        return self.grid is None and math.isfinite(self.budget_ms)

    def plan(self, frame: Size, network: Size, pass_ms: float = 0.0) -> Plan:
        """The passes for frames of a size.

        Args:
            frame: the frames' size.
            network: size of the network's input.
            pass_ms: 95th percentile of the time of one pass; only asked for where `needs_time`.
        """
        if self.grid:
            return cut(frame, network, self.grid, self.overlap, self.whole)
        return self._finest(frame, network, pass_ms)

    def _finest(self, frame: Size, network: Size, pass_ms: float) -> Plan:
        plans = useful_plans(frame, network, self.overlap, self.whole)
        costs = [len(plan.passes) * pass_ms for plan in plans]
        limit = SHARE * self.budget_ms
        last = max((n for n, cost in enumerate(costs) if cost <= limit), default=0)
        chosen, finer = plans[last], plans[last + 1 :]
        reason = 'finer tiles would show nothing better' if not finer else ''
        if self.needs_time:
            budget = f'{SHARE:.0%} of the budget of {self.budget_ms:g} ms'
            fits = f'within {budget}' if costs[last] <= limit else f'over {budget}, but less is not possible'
            reason = f'{costs[last]:.0f} ms at {pass_ms:.1f} ms a pass, {fits}; {reason}'
            if finer:
                reason += f'{finer[0].columns}x{finer[0].rows} would take {costs[last + 1]:.0f} ms'
        return replace(chosen, reason=reason)


def parse(
    text: str, overlap: float = OVERLAP, budget_ms: float = math.inf, report: Report = _say_nothing
) -> Tiling | None:
    """What a user writes: `off`, `auto` or COLUMNSxROWS such as `2x1`; with `+whole` behind it the whole frame is seen as well.

    `auto` always sees the whole frame too: objects that are large at the frame's own scale must not be lost for the small ones.

    Args:
        text: the above.
        overlap, budget_ms, report: see `Tiling`.

    Returns:
        None for `off`.

    Raises:
        TilesError: anything else, or an overlap out of its range.
    """
    if text == OFF:
        return None
    grid_text, whole = text.removesuffix(WHOLE), text.endswith(WHOLE)
    if text == AUTO:
        return Tiling(None, True, overlap, budget_ms, report)
    columns, _, rows = grid_text.partition('x')
    if not all(part.isascii() and part.isdecimal() and len(part) <= 2 for part in (columns, rows)):
        raise TilesError(f'tiles {text!r}: give off, auto, or COLUMNSxROWS such as 2x1 or 2x1{WHOLE}')
    return Tiling((int(columns), int(rows)), whole, overlap, report=report)


def most_passes(text: str) -> int:
    """How often a frame passes the network at most; 1 for `auto`, which keeps to the budget by itself."""
    tiling = parse(text)
    if tiling is None or tiling.grid is None:
        return 1
    return tiling.grid[0] * tiling.grid[1] + tiling.whole


def cut(frame: Size, network: Size, grid: tuple[int, int], overlap: float, whole: bool = False) -> Plan:
    """Cut frames into at most so many columns and rows; fewer where a tile of the network's size already needs no more.

    All tiles have one size, cover the frame without leaving it, and are as large as the scale that the grid gives allows.
    """
    least = [_least(length, count, overlap) for length, count in zip(frame, grid, strict=True)]
    scale = min(1.0, network[0] / least[0], network[1] / least[1])
    tile = [min(length, max(side, int(room / scale))) for length, side, room in zip(frame, least, network, strict=True)]
    xs, ys = (_starts(length, side, overlap) for length, side in zip(frame, tile, strict=True))
    passes = [Tile(x, y, x + tile[0], y + tile[1]) for y in ys for x in xs]
    if whole and len(passes) > 1:
        passes.append(Tile(0, 0, *frame))
    whole_scale = min(1.0, network[0] / frame[0], network[1] / frame[1])
    return Plan(frame, len(xs), len(ys), scale, tuple(passes), whole_scale)


def useful_plans(frame: Size, network: Size, overlap: float, whole: bool = False) -> list[Plan]:
    """From the whole frame to its own scale: by number of passes, each finer than those before by a margin worth having."""
    plans = sorted(_plans(frame, network, overlap, whole), key=lambda plan: (len(plan.passes), -plan.scale))
    useful = plans[:1]
    for plan in plans:
        if plan.scale >= WORTH_IT * useful[-1].scale:
            useful.append(plan)
    return useful


def _plans(frame: Size, network: Size, overlap: float, whole: bool) -> Iterator[Plan]:
    most = [min(MOST, _count(length, min(length, room), overlap)) for length, room in zip(frame, network, strict=True)]
    for columns in range(1, most[0] + 1):
        for rows in range(1, most[1] + 1):
            yield cut(frame, network, (columns, rows), overlap, whole)


def _count(length: int, tile: int, overlap: float) -> int:
    """How many tiles it takes along one axis."""
    if tile >= length:
        return 1
    return 1 + math.ceil((length - tile) / (tile - math.ceil(overlap * tile)))


def _least(length: int, count: int, overlap: float) -> int:
    """The smallest tile of which `count` suffice; never a single pixel, which could not overlap."""
    tile = min(length, max(2, math.ceil(length / (count - (count - 1) * overlap))))
    while _count(length, tile, overlap) > count:
        tile += 1
    return tile


def _starts(length: int, tile: int, overlap: float) -> list[int]:
    """Where the tiles begin: the first at 0, the last so that it ends with the frame, the others evenly between."""
    count = _count(length, tile, overlap)
    return [n * (length - tile) // max(count - 1, 1) for n in range(count)]

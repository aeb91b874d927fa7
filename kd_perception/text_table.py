"""Tables for terminals and logs."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def aligned(rows: Sequence[Sequence[str]], numbers: Collection[int] = ()) -> list[str]:
    """One line a row, its columns aligned; the last column may be of any length.

    Args:
        rows: cells, every row of the same length; the first row may be the head.
        numbers: columns that are aligned to the right.
    """
    last = len(rows[0]) - 1
    widths = [max(len(row[column]) for row in rows) for column in range(last)]
    lines = []
    for row in rows:
        cells = [row[n].rjust(widths[n]) if n in numbers else row[n].ljust(widths[n]) for n in range(last)]
        lines.append('  '.join([*cells, row[last]]).rstrip())
    return lines

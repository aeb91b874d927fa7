"""Ground truth from a CSV of boxes by frame number, as annotation tools for videos write it."""

from __future__ import annotations

import csv
from pathlib import Path

from kd_perception.core.errors import GroundTruthError
from kd_perception.evaluation.ground_truth import AnnotatedObject

COLUMNS = ('frame', 'label', 'x', 'y', 'w', 'h')


def read_truth_table(path: Path) -> dict[int, list[AnnotatedObject]]:
    """The boxes of a CSV file with the columns frame, label, x, y, w, h, by frame number.

    Frames count from 0; x and y are the box's top left corner in pixels. A row with a frame number and nothing else says that
    the frame was looked at and is empty; frames without a row have no ground truth. Labels become lower case.

    Raises:
        GroundTruthError: not such a file; says in which line.
    """
    frames: dict[int, list[AnnotatedObject]] = {}
    try:
        with path.open(newline='', encoding='utf-8') as stream:
            rows = csv.DictReader(stream)
            missing = [name for name in COLUMNS if name not in (rows.fieldnames or ())]
            if missing:
                raise GroundTruthError(
                    f'{path}: no column {", ".join(missing)}; the first line must name {", ".join(COLUMNS)}'
                )
            for row in rows:
                try:
                    objects = frames.setdefault(int(row['frame']), [])
                    if row['label']:
                        x, y, width, height = (float(row[name]) for name in COLUMNS[2:])
                        objects.append(AnnotatedObject((x, y, x + width, y + height), row['label'].lower()))
                except (TypeError, ValueError) as error:
                    raise GroundTruthError(f'{path}, line {rows.line_num}: {error}') from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise GroundTruthError(f'{path}: {error}') from error
    return frames

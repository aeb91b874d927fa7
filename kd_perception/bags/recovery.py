"""Saves what can be read of a damaged or unfinished bag in a new one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kd_perception.bags.message_types import types
from kd_perception.bags.storage import salvage
from kd_perception.bags.writer import BagWriter, StorageName
from kd_perception.errors import BagError


@dataclass(frozen=True)
class Recovered:
    """What became of a bag.

    Attributes:
        messages: that were saved.
        damage: a line for every file that is not whole: what is wrong, and where.
        unknown: messages that were not saved, by their types, which a new bag would have to describe.
    """

    messages: int
    damage: tuple[str, ...]
    unknown: Mapping[str, int]


def recover(source: Path, target: Path, storage: StorageName = 'mcap') -> Recovered:
    """Write the messages that lie before the first damage of each file as a new bag.

    Raises:
        BagError: there is no bag, nothing in it can be read, or the new one cannot be written.
    """
    damage: list[str] = []
    unknown = Counter[str]()
    saved = 0
    with BagWriter(target, storage) as bag:
        for message in salvage(source, damage.append):
            if message.type not in types().fielddefs:
                unknown[message.type] += 1
                continue
            bag.copy(message)
            saved += 1
        if not saved:
            raise BagError(f'{source}: nothing in it can be saved' + (f': {damage[0]}' if damage else ''))
    return Recovered(saved, tuple(damage), unknown)

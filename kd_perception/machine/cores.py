"""How many processor cores an engine may use."""

from __future__ import annotations

import os
from pathlib import Path


def physical_cores() -> int:
    """Physical cores that this process may use: two threads on one core's hyper-threads only hinder each other."""
    usable = os.sched_getaffinity(0)
    siblings = set()
    for cpu in usable:
        listing = Path(f'/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list')
        try:
            siblings.add(listing.read_text(encoding='ascii'))
        except OSError:
            return len(usable)
    return max(1, len(siblings))

"""Freed memory is kept for the next image."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

IMAGES = """
import resource
import numpy as np
from kd_perception.machine.memory import keep_freed_blocks

def pages_touched_anew():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        images = [np.ones(20 * 2**20, np.uint8) for _ in range(3)]
        del images
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

assert keep_freed_blocks()
pages_touched_anew()
print(pages_touched_anew())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='the thresholds are those of glibc')
def test_images_that_come_and_go_touch_no_new_pages(repository):
    ended = subprocess.run([sys.executable, '-c', IMAGES], cwd=repository, capture_output=True, text=True, check=True)
    assert int(ended.stdout) < 1000  # ten times three images have 153,600 pages

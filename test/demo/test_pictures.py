"""The demo's contact sheet."""

import numpy as np
import pytest

from kd_perception.demo.contact_sheet import ContactSheet


def picture(shade: int, width: int = 64, height: int = 48) -> np.ndarray:
    return np.full((height, width, 3), shade, np.uint8)


def test_a_contact_sheet_has_a_picture_of_every_part_of_the_run() -> None:
    sheet = ContactSheet(frames=120)
    for frame in range(120):
        if sheet.wants(frame):
            sheet.add(frame, picture(frame * 2))
    page = sheet.page()
    assert page is not None
    middles = [page[8 + 180 + row * 368, 8 + 240 + column * 488, 0] for row in range(4) for column in range(3)]
    assert middles == [frame * 2 for frame in range(0, 120, 10)]


@pytest.mark.parametrize('count', [1, 2, 4])
def test_a_short_run_makes_a_small_sheet(count: int) -> None:
    sheet = ContactSheet(frames=count)
    for frame in range(count):
        sheet.add(frame, picture(200, 64, 20 + frame))
    page = sheet.page()
    assert page is not None
    assert page.shape[1] == min(count, 3) * 488 + 8


def test_an_empty_run_makes_no_sheet() -> None:
    assert ContactSheet(frames=12).page() is None

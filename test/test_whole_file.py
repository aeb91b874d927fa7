"""Files that are whole or not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from kd_perception.errors import KdPerceptionError
from kd_perception.whole_file import whole_file, write_whole


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / 'report.html'
    path.write_text('old')
    return path


def test_what_ends_well_takes_the_place_of_the_old(target: Path) -> None:
    with whole_file(target) as scratch:
        assert scratch.suffix == target.suffix
        scratch.write_text('new')
        assert target.read_text() == 'old'
    assert target.read_text() == 'new'
    assert list(target.parent.iterdir()) == [target]


def test_on_a_full_disk_the_old_file_stays(target: Path) -> None:
    target.with_name('.report.part.html').symlink_to('/dev/full')
    with pytest.raises(KdPerceptionError, match='No space left'):
        write_whole(target, 'new')
    assert target.read_text() == 'old'
    assert list(target.parent.iterdir()) == [target]


def test_whatever_else_goes_wrong_leaves_nothing_behind(target: Path) -> None:
    def break_off() -> None:
        with whole_file(target) as scratch:
            scratch.write_text('half')
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        break_off()
    assert target.read_text() == 'old'
    assert list(target.parent.iterdir()) == [target]


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(KdPerceptionError, match='cannot be written: No such file'):
        write_whole(tmp_path / 'no such folder' / 'report.html', 'new')


def test_a_file_name_that_is_not_utf8_is_written_all_the_same(target: Path) -> None:
    write_whole(target, 'bag \udcff')
    assert target.read_text() == 'bag \\udcff'

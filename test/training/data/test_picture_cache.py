"""Kept pictures: as many as a limit allows, and always what the file holds."""

import numpy as np
import pytest

from training.data.picture_cache import InMemory, NoCache, OnDisk


def picture(value, size=8):
    return np.full((size, 6, 3), value, np.uint8)


@pytest.fixture
def files(tmp_path):
    found = [tmp_path / f'{number}.jpg' for number in range(4)]
    for number, file in enumerate(found):
        file.write_bytes(bytes(number + 1))
    return found


class Decoder:
    """Counts how often each picture was decoded."""

    def __init__(self):
        self.decoded = []

    def of(self, number):
        return lambda: self.decoded.append(number) or picture(number)


def ask_twice(cache, files):
    decoder = Decoder()
    for _ in range(2):
        for number, file in enumerate(files):
            assert np.array_equal(cache(number, file, decoder.of(number)), picture(number))
    return decoder.decoded


@pytest.mark.parametrize(
    ('limit', 'decoded'), [(10**6, [0, 1, 2, 3]), (2 * 144, [0, 1, 2, 3, 2, 3]), (0, [0, 1, 2, 3] * 2)]
)
def test_memory_keeps_as_many_as_it_may(files, limit, decoded):
    cache = InMemory(limit)
    assert ask_twice(cache, files) == decoded
    assert cache.full == (limit < 10**6)


@pytest.mark.parametrize(
    ('limit', 'decoded'), [(10**6, [0, 1, 2, 3]), (2 * 144, [0, 1, 2, 3, 2, 3]), (0, [0, 1, 2, 3] * 2)]
)
def test_a_disk_keeps_as_many_as_it_may(files, tmp_path, limit, decoded):
    assert ask_twice(OnDisk(tmp_path / 'kept', 8, limit), files) == decoded


def test_a_later_process_finds_them_and_counts_them(files, tmp_path):
    ask_twice(OnDisk(tmp_path / 'kept', 8, 10**6), files[:2])
    used = sum(file.stat().st_size for file in (tmp_path / 'kept').iterdir())
    assert ask_twice(OnDisk(tmp_path / 'kept', 8, used), files) == [2, 3, 2, 3]


def test_what_was_altered_or_broken_is_decoded_anew(files, tmp_path):
    ask_twice(OnDisk(tmp_path / 'kept', 8, 10**6), files[:2])
    files[0].write_bytes(b'another picture')
    assert ask_twice(OnDisk(tmp_path / 'kept', 8, 10**6), files[:2]) == [0]
    for file in (tmp_path / 'kept').iterdir():
        file.write_bytes(file.read_bytes()[:100])
    assert ask_twice(OnDisk(tmp_path / 'kept', 8, 10**6), files[:2]) == [0, 1]


def test_without_a_cache_all_is_decoded(files):
    assert ask_twice(NoCache(), files) == [0, 1, 2, 3] * 2

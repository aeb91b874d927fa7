"""What is built on this machine is kept whole, built once, and never the reason that nothing runs."""

from __future__ import annotations

import resource
import subprocess
import sys
import time

import pytest

from kd_perception.engines import cache

MADE_OF = {'engine': 'tensorrt', 'model': 'ab12', 'precision': 'fp16'}


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    monkeypatch.setenv('KD_PERCEPTION_CACHE', str(tmp_path / 'cache'))
    return tmp_path / 'cache'


def get(said=None, made_of=MADE_OF, content=b'content', builds=None):
    def build():
        if builds is not None:
            builds.append(content)
        return content

    return cache.cached(made_of, build, [].append if said is None else said.append)


@pytest.mark.parametrize(
    ('variables', 'expected'),
    [
        ({'KD_PERCEPTION_CACHE': '/var/kd', 'XDG_CACHE_HOME': '/x'}, '/var/kd'),
        ({'XDG_CACHE_HOME': '/x'}, '/x/kd_perception'),
        ({'HOME': '/home/robot'}, '/home/robot/.cache/kd_perception'),
    ],
)
def test_where_it_is(monkeypatch, variables, expected):
    for name in ('KD_PERCEPTION_CACHE', 'XDG_CACHE_HOME'):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert str(cache.cache_folder()) == expected


def test_the_second_time_it_is_read():
    builds, said = [], []
    assert [get(said, builds=builds) for _ in range(2)] == [b'content'] * 2
    assert (builds, said) == ([b'content'], [])


def test_another_value_anywhere_is_another_entry():
    builds = []
    for change in ({}, {'model': 'ab13'}, {'tensorrt': '10.3'}):
        get(made_of=MADE_OF | change, builds=builds)
    assert len(builds) == 3


@pytest.mark.parametrize(
    'damage', [b'', b'{"made_of": {}}\n', b'\xff\xfe', None], ids=['empty', 'other', 'no text', 'a bit']
)
def test_a_damaged_entry_is_built_again(damage):
    get()
    (entry,) = cache.entries()
    if damage is None:
        content = bytearray(entry.path.read_bytes())
        content[-1] ^= 1
        damage = bytes(content)
    entry.path.write_bytes(damage)
    builds, said = [], []
    assert get(said, builds=builds) == b'content'
    assert 'built again' in said[0]
    get(builds=builds)
    assert len(builds) == 1


def test_a_folder_that_cannot_be_made_costs_the_build_only(folder):
    folder.write_text('a file in its place')
    builds, said = [], []
    assert get(said, builds=builds) == b'content'
    assert (len(builds), len(said)) == (1, 1)
    assert 'set KD_PERCEPTION_CACHE to a folder that can be written' in said[0]


def test_a_read_only_file_system_costs_the_build_only(monkeypatch):
    # Also for root, whom permission bits do not stop.
    monkeypatch.setenv('KD_PERCEPTION_CACHE', '/proc/self')
    said = []
    assert get(said) == b'content'
    assert '/proc/self cannot keep' in said[0]


def test_a_full_disk_leaves_no_half_entry(folder):
    get()  # the lock file needs no room later
    said = []
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        assert get(said, made_of=MADE_OF | {'model': 'big'}, content=b'x' * 5000) == b'x' * 5000
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert 'Free space there' in said[0]
    assert sorted(path.suffix for path in folder.iterdir()) == ['.engine', '.lock', '.lock']


def test_a_failing_build_is_the_callers_error_and_keeps_nothing():
    def build():
        raise OSError('the builder, not the folder')

    with pytest.raises(OSError, match='the builder'):
        cache.cached(MADE_OF, build, [].append)
    assert cache.entries() == []


PROCESS = """
import sys, time
from kd_perception.engines.cache import cached
def build():
    print('built', flush=True)
    time.sleep(0.5)
    return b'once'
made_of = {'engine': 'tensorrt', 'model': 'ab12', 'precision': 'int8'}
assert cached(made_of, build, lambda line: print(line, flush=True)) == b'once'
"""


def test_two_processes_build_one_entry_once(repository, folder):
    command = [sys.executable, '-c', PROCESS]
    first = subprocess.Popen(command, cwd=repository, stdout=subprocess.PIPE, text=True)
    assert first.stdout.readline() == 'built\n'
    second = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True, timeout=60)
    assert first.wait(60) == 0
    first.stdout.close()
    assert second.stdout == 'another process is building tensorrt ab12 int8; waiting for it\n'


def test_a_builder_that_is_killed_gives_the_place_free(repository):
    command = [sys.executable, '-c', PROCESS]
    first = subprocess.Popen(command, cwd=repository, stdout=subprocess.PIPE, text=True)
    assert first.stdout.readline() == 'built\n'
    first.kill()
    first.wait()
    first.stdout.close()
    second = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True, timeout=60)
    assert second.stdout == 'built\n'


def test_the_longest_unused_goes_first(monkeypatch):
    for number in range(3):
        get(made_of=MADE_OF | {'model': str(number)}, content=b'x' * 1000)
        time.sleep(0.02)
    get(made_of=MADE_OF | {'model': '0'})  # used again: no longer the oldest
    removed = cache.clear(limit_bytes=2500)
    assert [entry.made_of['model'] for entry in removed] == ['1']
    assert [entry.made_of['model'] for entry in cache.entries()] == ['2', '0']
    assert len(cache.clear()) == 2

"""What is built on this machine is kept whole, built once, and never the reason that nothing runs."""

from __future__ import annotations

import os
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
import pathlib, sys, time
from kd_perception.engines.cache import cached
def build():
    print('built', flush=True)
    while sys.argv[1:] and not pathlib.Path(sys.argv[1]).exists():
        time.sleep(0.01)
    return b'once'
made_of = {'engine': 'tensorrt', 'model': 'ab12', 'precision': 'int8'}
assert cached(made_of, build, lambda line: print(line, flush=True)) == b'once'
"""


def test_two_processes_build_one_entry_once(repository, tmp_path):
    command = [sys.executable, '-c', PROCESS, str(tmp_path / 'go_on')]
    first, second = (subprocess.Popen(command, cwd=repository, stdout=subprocess.PIPE, text=True) for _ in range(2))
    # Whichever comes first builds, and does not end before the other one waits.
    lines = {process.stdout.readline() for process in (first, second)}
    assert lines == {'built\n', 'another process is building tensorrt ab12 int8; waiting for it\n'}
    (tmp_path / 'go_on').touch()
    assert [process.communicate(timeout=120)[0] for process in (first, second)] == ['', '']
    assert (first.returncode, second.returncode) == (0, 0)


def test_a_builder_that_is_killed_gives_the_place_free(repository, tmp_path):
    command = [sys.executable, '-c', PROCESS]
    first = subprocess.Popen([*command, str(tmp_path / 'never')], cwd=repository, stdout=subprocess.PIPE, text=True)
    assert first.stdout.readline() == 'built\n'
    first.kill()
    first.wait()
    first.stdout.close()
    second = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True, timeout=120)
    assert second.stdout == 'built\n'


# What others could have laid


@pytest.mark.parametrize('mode', [0o775, 0o757, 0o777, 0o1777], ids=oct)
def test_a_folder_that_others_can_write_to_is_not_used(folder, mode):
    get()
    folder.chmod(mode)
    builds, said = [], []
    assert get(said, content=b'anew', builds=builds) == b'anew'
    assert builds == [b'anew']
    assert 'can be written by others' in said[0]
    assert f'chmod go-w {folder}' in said[0]


@pytest.mark.parametrize('mode', [0o666, 0o664, 0o602], ids=oct)
def test_an_entry_that_others_can_write_is_built_again(mode):
    get()
    (entry,) = cache.entries()
    entry.path.chmod(mode)
    builds, said = [], []
    assert get(said, builds=builds) == b'content'
    assert 'can be written by others' in said[0]
    assert entry.path.stat().st_mode & 0o022 == 0


@pytest.mark.parametrize('what', ['folder', 'entry'])
def test_what_belongs_to_another_user_is_not_used(folder, monkeypatch, what):
    get()
    theirs = (folder if what == 'folder' else cache.entries()[0].path).stat().st_ino
    real = cache._strangers
    monkeypatch.setattr(
        cache, '_strangers', lambda facts: 'belongs to another user' if facts.st_ino == theirs else real(facts)
    )
    builds, said = [], []
    get(said, builds=builds)
    assert len(builds) == 1
    assert 'belongs to another user' in said[0]


@pytest.mark.parametrize(
    ('user', 'owner', 'trusted'), [(1000, 1000, True), (1000, 0, True), (1000, 1001, False), (0, 1000, False)]
)
def test_whose_folder_is_trusted(folder, monkeypatch, user, owner, trusted):
    monkeypatch.setattr(os, 'geteuid', lambda: user)
    facts = os.stat_result((0o40755, 1, 1, 1, owner, owner, 0, 0, 0, 0))
    assert bool(cache._strangers(facts)) != trusted


def test_links_and_pipes_in_place_of_an_entry_are_built_anew(folder, tmp_path):
    get()
    (entry,) = cache.entries()
    for lay in (lambda path: path.symlink_to(tmp_path / 'elsewhere'), os.mkfifo):
        entry.path.rename(tmp_path / 'elsewhere') if entry.path.is_file() else entry.path.unlink()
        lay(entry.path)
        builds = []
        assert get(builds=builds) == b'content'
        assert len(builds) == 1


@pytest.mark.parametrize('header', [b'[' * 60_000, b'{"made_of": 1}', b'{"made_of": {"engine": []}}', b'3'])
def test_the_list_of_entries_leaves_out_what_is_none(folder, header):
    get()
    (folder / 'odd.engine').write_bytes(header + b'\n')
    assert [entry.made_of for entry in cache.entries()] == [MADE_OF]


def test_the_longest_unused_goes_first(monkeypatch):
    for number in range(3):
        get(made_of=MADE_OF | {'model': str(number)}, content=b'x' * 1000)
        time.sleep(0.02)
    get(made_of=MADE_OF | {'model': '0'})  # used again: no longer the oldest
    removed = cache.clear(limit_bytes=2500)
    assert [entry.made_of['model'] for entry in removed] == ['1']
    assert [entry.made_of['model'] for entry in cache.entries()] == ['2', '0']
    assert len(cache.clear()) == 2

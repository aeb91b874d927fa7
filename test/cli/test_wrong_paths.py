"""Every command on every kind of wrong path: a line that names it, never a traceback, never an escape sequence, no waiting."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from networks import make_bundle

from kd_perception.bags.writer import BagWriter
from kd_perception.cli.main import main

KINDS = (
    'pipe',
    'device',
    'loop',
    'long',
    'deep',
    'playlist.m3u8',
    'colored',
    'empty',
    'folder',
    'absent',
    'locked',
    'text.mcap',
)


@pytest.fixture(scope='module')
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle, a bag, a picture, and wrong paths of every kind, each also with the suffixes that commands look at."""
    folder = tmp_path_factory.mktemp('wrong')
    make_bundle(folder / 'bundle')
    with BagWriter(folder / 'bag') as bag:
        bag.image('/image', 1, np.zeros((8, 8, 3), np.uint8))
    cv2.imwrite(str(folder / 'picture.png'), np.zeros((8, 8, 3), np.uint8))
    for suffix in ('', '.mcap', '.db3', '.jpg', '.mp4', '.json', '.csv'):
        os.mkfifo(folder / f'pipe{suffix}')
        (folder / f'device{suffix}').symlink_to('/dev/zero')
        (folder / f'loop{suffix}').symlink_to(f'loop{suffix}')
        (folder / f'empty{suffix}').touch()
        (folder / f'playlist.m3u8{suffix}').write_text('#EXTM3U\nother.mp4\n')
        (folder / f'\033[31mcolored{suffix}').write_text('\033[31m')
        (folder / f'locked{suffix}').touch(mode=0o000)
        (folder / f'text.mcap{suffix}').write_text('no bag')
    (folder / 'folder').mkdir()
    return folder


def path_of(place: Path, kind: str) -> str:
    names = {'long': 'a' * 300, 'deep': '/'.join('a' * 3000), 'colored': '\033[31mcolored'}
    return str(place / names.get(kind, kind))


COMMANDS = [
    'bag info {}',
    'bag info {}.mcap',
    'bag info {}.db3',
    'bag recover {} --out {new}',
    'bag from-video {}.mp4 --out {new}',
    'bag from-images {} --out {new}',
    'bag from-video {place}/picture.png --ground-truth {}.csv --out {new}',
    'bag from-images {place} --ground-truth {}.json --out {new}',
    'evaluate {} --bundle {place}/bundle --out {new}',
    'evaluate {place}/bag --bundle {place}/bundle --out {new} --ground-truth {}.json',
    'detect {}.jpg --bundle {place}/bundle --out {new} --no-pictures',
    'detect {}.mp4 --bundle {place}/bundle --out {new} --no-pictures',
    'compare {}.json',
]


@pytest.mark.parametrize('command', COMMANDS)
@pytest.mark.parametrize('kind', KINDS)
def test_it_is_named_in_a_line(
    kind: str, command: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = command.replace('{place}', str(place)).replace('{new}', str(tmp_path / 'new')).split()
    status = main([word.replace('{}', path_of(place, kind)) for word in words])
    said = capsys.readouterr().err
    assert status == 1
    assert said.startswith('kd_perception: ')
    assert '\033' not in said
    assert len([line for line in said.splitlines() if line.startswith('kd_perception: ')]) <= 2


@pytest.mark.parametrize(
    'command', ['bag from-scene --frames 1 --out {}', 'detect {place}/picture.png --bundle {place}/bundle --out {}']
)
@pytest.mark.parametrize('kind', ['pipe', 'device', 'loop', 'long', 'empty', 'playlist.m3u8'])
def test_nothing_is_written_there(kind: str, command: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = path_of(place, kind)
    assert main([word.replace('{}', path) for word in command.replace('{place}', str(place)).split()]) == 1
    assert capsys.readouterr().err.startswith('kd_perception: ')

"""Whatever a stranger's bundle holds, the answer is a bundle or one line that names file and line."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from networks import BUNDLE_YAML, make_bundle

from kd_perception.bundles import bundle_yaml
from kd_perception.bundles.bundle import (
    BUNDLE_FILE,
    Bundle,
    bundles_on,
    find_bundle,
    installed_bundles,
    load_bundle,
    write_bundle,
)
from kd_perception.doctor import bundles as doctor_of_bundles
from kd_perception.errors import BundleError
from kd_perception.selection.selection import family


def loaded(folder: Path, text: str | bytes) -> Bundle:
    """The bundle of a text."""
    content = text if isinstance(text, bytes) else text.encode()
    (folder / BUNDLE_FILE).write_bytes(content)
    return load_bundle(folder)


def refusal(folder: Path, text: str | bytes) -> str:
    """The one printable line with which a text is refused."""
    with pytest.raises(BundleError) as refused:
        loaded(folder, text)
    said = str(refused.value)
    assert said.isprintable(), said
    assert len(said) < 1000
    return said


def test_the_plain_one_is_read(tmp_path):
    assert loaded(tmp_path, BUNDLE_YAML).classes == ('bright', 'blue')


@pytest.mark.parametrize(
    ('old', 'new', 'line', 'says'),
    [
        ('blue]', 'bright]', 5, "'bright' is there twice"),
        ('blue]', '3]', 5, 'classes[1]: 3 is not of type'),
        ('[bright, blue]', '["bright\\nblue"]', 5, 'does not match'),
        ('blue]', '"\\ud800"]', 5, 'cannot be read'),
        ('blue]', '"\\e[31mred"]', 5, 'control character'),
        ('blue]', '"a\\0b"]', 5, 'control character'),
        ('blue]', '"\\x9b31m"]', 5, 'control character'),
        ('[bright, blue]', '[' + ', '.join(f'{n}, c{n}' for n in range(10_000)) + ']', 5, 'classes'),
        ('[bright, blue]', '&all [bright, blue]', 5, 'aliases are not allowed'),
        ('finds bright cells', '*all', 3, 'cannot be read'),
        ('finds bright cells', '!!python/object/apply:os.system [ls]', 3, 'tag'),
        ('finds bright cells', '!!binary aGk=', 3, 'tag'),
        ('finds bright cells', '!mine x', 3, 'tag'),
        ('finds bright cells', '2026-11-28', 0, ''),
        ('finds bright cells', '.nan', 3, 'not a finite number'),
        ('finds bright cells', '-.inf', 3, 'not a finite number'),
        ('finds bright cells', '9' * 5000, 3, 'a number of 5000 digits'),
        ('finds bright cells', '1' + ':1' * 3000, 3, 'a number of 6001 digits'),
        ('finds bright cells', '[' * 30 + ']' * 30, 3, 'nested deeper'),
        ('finds bright cells', '{a: {b: {c: 1}}}', 3, 'description'),
        ('width: 64', 'width: 64.0', 7, 'input.width: 64.0 is not of type'),
        ('width: 64', 'width: true', 7, 'input.width: True is not of type'),
        ('width: 64', 'width: 1e999', 7, 'input.width'),
        ('width: 64', 'width: 8193', 7, 'input.width'),
        ('width: 64', 'width: 64\n  width: 65', 8, 'width is there twice'),
        ('color: bgr', 'color: bgr\n  colour: rgb', 10, 'color is there twice'),
        ('license: Apache-2.0', 'license: Apache-2.0\nlicence: MIT', 5, 'license is there twice'),
        ('resize: letterbox', 'resize: letterbox\n  std: [1, 0, 1]', 13, 'input.std'),
        ('resize: letterbox', 'resize: letterbox\n  std: [1, 1e-30, 1]', 13, 'input.std'),
        ('resize: letterbox', 'resize: letterbox\n  mean: [1e300, 0, 0]', 13, 'input.mean'),
        ('score: 0.5', 'score: 5', 14, 'thresholds.score'),
        ('score: 0.5', 'score: .5e-400', 0, ''),
        ('name: bright_cells', 'name: "bright_cells\\n"', 2, 'name'),
        ('name: bright_cells', '? [name]\n: 1', 2, 'a key is not text'),
        ('name: bright_cells', '1: 1', 2, 'a key is not text'),
        ('name: bright_cells', '<<: {name: x}', 1, 'document'),
        ('schema_version: 1\n', '', 1, "'schema_version' is a required property"),
        ('file: bright_cells.onnx', 'file: ../bright_cells.onnx', 18, 'artifacts[0].file'),
        ('file: bright_cells.onnx', 'file: /dev/zero', 18, 'artifacts[0].file'),
        ('file: bright_cells.onnx', f'file: {"ä" * 200}', 0, ''),
        ('sha256: a', 'sha256: x', 19, 'artifacts[0].sha256'),
        ('sha256: ', 'engine: ncnn\n  sha256: ', 19, 'engine is there twice'),
        ('artifacts:', 'artifacts: [}', 15, 'cannot be read'),
        ('artifacts:', '...\n---\nartifacts:', 0, 'cannot be read'),
    ],
)
def test_a_fault_is_named_with_its_line(tmp_path, old, new, line, says):
    assert old in BUNDLE_YAML
    text = BUNDLE_YAML.replace(old, new, 1)
    if not says:
        loaded(tmp_path, text)
        return
    said = refusal(tmp_path, text)
    assert says in said
    assert f'{BUNDLE_FILE}:{line}:' in said or not line, said


@pytest.mark.parametrize(
    ('content', 'says'),
    [
        (b'', 'not a mapping'),
        (b'# nothing\n', 'not a mapping'),
        (b'\xff\xfe' + 'name: x'.encode('utf-16-le'), 'not UTF-8'),
        (BUNDLE_YAML.encode() + b'# \xff\n', ':20: cannot be read: it is not UTF-8'),
        (BUNDLE_YAML.encode() + b'# \x00\n', 'cannot be read'),
        (BUNDLE_YAML.encode() + b'\n' * bundle_yaml.MAX_BYTES, 'larger than'),
        (b'a: ' + b'[' * 100_000, 'nested deeper'),
        (b'{' * 100_000, 'cannot be read'),
        (b'- ' * 50_000, 'nested deeper'),
        (b'"' + b'\\' * 100_001, 'cannot be read'),
        (b'%YAML 9.9\n---\na: 1', 'cannot be read'),
        (b'a: |' + b'9' * 1000, 'cannot be read'),
    ],
)
def test_what_is_no_document_is_refused(tmp_path, content, says):
    assert says in refusal(tmp_path, content)


def test_the_reader_in_python_refuses_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(bundle_yaml, '_Loader', yaml.SafeLoader)
    assert loaded(tmp_path, BUNDLE_YAML).name == 'bright_cells'
    for old, new in (('blue]', '"\\e[31m"]'), ('blue]', 'bright]'), ('finds bright cells', '!!binary x')):
        assert f'{BUNDLE_FILE}:' in refusal(tmp_path, BUNDLE_YAML.replace(old, new, 1))
    refusal(tmp_path, b'a: ' + b'[' * 100_000)


def test_bundles_of_before_are_read_and_written_in_the_present_spelling(tmp_path):
    make_bundle(tmp_path)
    document = yaml.safe_load((tmp_path / BUNDLE_FILE).read_text())
    before = {**document, 'licence': document['license'], 'input': {**document['input'], 'colour': 'rgb'}}
    del before['license'], before['input']['color']
    (tmp_path / BUNDLE_FILE).write_text(yaml.safe_dump(before))
    bundle = load_bundle(tmp_path)
    assert (bundle.license, bundle.input.color) == (document['license'], 'rgb')
    write_bundle(tmp_path, before)
    written = (tmp_path / BUNDLE_FILE).read_text()
    assert 'licence' not in written
    assert 'colour' not in written
    assert load_bundle(tmp_path) == bundle


@pytest.mark.parametrize(
    'value',
    [float('nan'), float('inf'), 10**40, {1: 2}, object(), b'bytes', '\ud800', '\x1b[0m', 'a\x85b', {'a': {1, 2}}],
)
def test_what_cannot_be_read_back_is_not_written(tmp_path, value):
    make_bundle(tmp_path)
    before = (tmp_path / BUNDLE_FILE).read_bytes()
    document = yaml.safe_load(before)
    with pytest.raises(BundleError):
        write_bundle(tmp_path, {**document, 'provenance': {'value': value}})
    assert (tmp_path / BUNDLE_FILE).read_bytes() == before


# Folders and files


def pipe(path: Path) -> None:
    os.mkfifo(path)


def listening(path: Path) -> None:
    # A socket's own path is short by the system's rule, and test folders may lie deep.
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f'{folder}/socket')
        Path(folder, 'socket').rename(path)


ODD: dict[str, Any] = {
    'a pipe': pipe,
    'a socket': listening,
    'a folder': Path.mkdir,
    'a device': lambda path: path.symlink_to('/dev/zero'),
    'a loop': lambda path: path.symlink_to(path.name),
    'a link to nothing': lambda path: path.symlink_to('nowhere'),
    'a link out of the folder': lambda path: path.symlink_to('/etc/hostname'),
    'a link to a process': lambda path: path.symlink_to('/proc/self/environ'),
}


@pytest.mark.parametrize('odd', ODD)
def test_an_odd_file_in_place_of_bundle_yaml_is_refused_everywhere(tmp_path, monkeypatch, odd):
    shelf = tmp_path / 'share' / 'kd_perception' / 'models'
    named = make_bundle(shelf / 'good')
    (shelf / 'odd').mkdir()
    ODD[odd](shelf / 'odd' / BUNDLE_FILE)
    monkeypatch.setenv('AMENT_PREFIX_PATH', str(tmp_path))
    with pytest.raises(BundleError):
        load_bundle(shelf / 'odd')
    with pytest.raises(BundleError):
        load_bundle(find_bundle('odd'))
    assert shelf / 'odd' in installed_bundles()
    assert family(named) == [named]
    (finding,) = doctor_of_bundles.check([shelf / 'odd'])
    assert finding.subject == 'odd'


@pytest.mark.parametrize('odd', ODD)
def test_an_odd_file_in_place_of_the_network_is_refused(tmp_path, odd):
    bundle = make_bundle(tmp_path)
    (tmp_path / 'bright_cells.onnx').unlink()
    ODD[odd](tmp_path / 'bright_cells.onnx')
    with pytest.raises(BundleError):
        bundle.read(bundle.artifacts[0])


def test_no_more_than_the_limit_is_read(tmp_path, monkeypatch):
    """A file that grows while it is read, or a sparse one of terabytes."""
    bundle = make_bundle(tmp_path)
    os.truncate(tmp_path / BUNDLE_FILE, 1 << 40)
    with pytest.raises(BundleError, match='larger than'):
        load_bundle(tmp_path)
    monkeypatch.setattr('kd_perception.bundles.bundle.MAX_ARTIFACT_BYTES', 1000)
    os.truncate(tmp_path / 'bright_cells.onnx', 1 << 40)
    with pytest.raises(BundleError, match='larger than 1000 bytes'):
        bundle.read(bundle.artifacts[0])


def test_a_folder_of_links_is_read_as_colcon_lays_it(tmp_path):
    """`colcon build --symlink-install` links each file on its own."""
    source = make_bundle(tmp_path / 'source')
    (tmp_path / 'installed').mkdir()
    for path in source.folder.iterdir():
        (tmp_path / 'installed' / path.name).symlink_to(path)
    bundle = load_bundle(tmp_path / 'installed')
    assert bundle.read(bundle.artifacts[0]) == source.read(source.artifacts[0])
    (tmp_path / 'elsewhere.onnx').write_bytes(b'x')
    (tmp_path / 'installed' / 'bright_cells.onnx').unlink()
    (tmp_path / 'installed' / 'bright_cells.onnx').symlink_to(tmp_path / 'elsewhere.onnx')
    with pytest.raises(BundleError, match='outside its bundle'):
        load_bundle(tmp_path / 'installed')


NAMES = [
    '~nosuchuser/models/car',
    '~nosuchuser',
    'car, van and truck ' * 300,
    'a/' * 3000,
    'x' * 300,
    'zero\0byte',
    'folder/zero\0byte',
    '\ud800',
    '\x1b[31mred',
    '',
    '.',
    '/',
    '/dev/null',
    '/proc/self/mem',
    '/dev/null/below',
    '..',
    'ä' * 5000,
]


@pytest.mark.parametrize('name', NAMES)
def test_whatever_is_named_as_a_model_is_refused_in_one_line(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError) as refused:
        load_bundle(find_bundle(name))
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 1000
    with pytest.raises(BundleError):
        load_bundle(name)


@pytest.mark.parametrize('prefix', ['/nowhere', '/dev/null', 'x' * 5000, '~nosuchuser', '/proc/self/mem', 'a/' * 3000])
def test_odd_prefixes_hold_no_bundles(monkeypatch, prefix):
    monkeypatch.setenv('AMENT_PREFIX_PATH', prefix)
    assert installed_bundles()
    with pytest.raises(BundleError):
        find_bundle('no_such_bundle')


def test_a_shelf_that_cannot_be_read_is_empty(tmp_path, monkeypatch):
    make_bundle(tmp_path / 'good')
    assert [folder.name for folder in bundles_on(tmp_path)] == ['good']

    def forbidden(self):
        raise PermissionError(13, 'Permission denied')

    monkeypatch.setattr(Path, 'iterdir', forbidden)
    assert bundles_on(tmp_path) == []

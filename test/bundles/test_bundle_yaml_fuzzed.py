"""Bundles of random bytes, mutations, trees and names: each is read, or refused in one line."""

from __future__ import annotations

import random
import string
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from networks import BUNDLE_YAML, bundle_document, make_bundle

from kd_perception.bundles.bundle import BUNDLE_FILE, find_bundle, load_bundle, write_bundle
from kd_perception.errors import BundleError

CHARACTERS = st.text(st.sampled_from(string.printable + 'äß€\u2028\x85\x9b\ufeff\U0001f697'), max_size=40)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    CHARACTERS,
    st.sampled_from(['.nan', '1:30', '0x1F', '~', 'no']),
)
TREES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(CHARACTERS | st.integers(), inner, max_size=4)
)
AT_LENGTH = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def is_answered(folder: Path, content: bytes) -> None:
    """A bundle, or one printable line that names the file."""
    try:
        (folder / BUNDLE_FILE).write_bytes(content)
        load_bundle(folder)
    except BundleError as error:
        said = str(error)
    else:
        return
    assert said.isprintable()
    assert BUNDLE_FILE in said
    assert len(said) < 1000


@pytest.mark.fuzz
@AT_LENGTH
@given(content=st.binary(max_size=400) | CHARACTERS.map(str.encode))
def test_any_bytes_are_answered(tmp_path, content):
    is_answered(tmp_path, content)


@pytest.mark.fuzz
@AT_LENGTH
@given(st.data())
def test_a_mutated_bundle_is_answered(tmp_path, data):
    """Bytes and lines of a valid one replaced, doubled, moved and cut."""
    content = bytearray(BUNDLE_YAML.encode())
    for _ in range(data.draw(st.integers(1, 6))):
        start = data.draw(st.integers(0, len(content)))
        end = min(len(content), start + data.draw(st.integers(0, 30)))
        piece = data.draw(st.binary(max_size=4) | st.just(bytes(content[start:end]) * 2) | st.sampled_from(PIECES))
        content[start:end] = piece
    is_answered(tmp_path, bytes(content))


ARTIFACT = {'engine': 'onnxruntime', 'precision': 'fp32', 'file': 'n', 'sha256': '0' * 64}
PIECES = [b'&a ', b'*a', b'!!', b'---\n', b'...\n', b'? ', b'<<: ', b': ', b'- ', b'|', b'>', b'"\\', b'%', b'[', b'{']


@pytest.mark.fuzz
@AT_LENGTH
@given(st.data())
def test_any_value_in_any_place_is_answered(tmp_path, data):
    document = bundle_document(artifacts=[dict(ARTIFACT)])
    place: Any = document
    for _ in range(data.draw(st.integers(0, 2))):
        inner = [
            value for value in (place.values() if isinstance(place, dict) else place) if isinstance(value, dict | list)
        ]
        if not inner:
            break
        place = data.draw(st.sampled_from(inner))
    if isinstance(place, dict):
        place[data.draw(st.sampled_from(sorted(place)) | CHARACTERS)] = data.draw(TREES)
    else:
        place.append(data.draw(TREES))
    is_answered(tmp_path, yaml.safe_dump(document, allow_unicode=data.draw(st.booleans())).encode())


@pytest.mark.fuzz
@AT_LENGTH
@given(TREES)
def test_what_is_written_is_read_back_as_it_was(tmp_path, tree):
    """Or is refused before anything is written."""
    make_bundle(tmp_path)
    document = yaml.safe_load((tmp_path / BUNDLE_FILE).read_text()) | {'provenance': {'tree': tree}}
    try:
        write_bundle(tmp_path, document)
    except BundleError:
        return
    assert load_bundle(tmp_path).provenance == {'tree': tree}


@pytest.mark.fuzz
@AT_LENGTH
@given(st.text(max_size=300) | st.lists(st.sampled_from(['~', '/', '..', '\0', 'a', '$HOME', '\ud800'])).map(''.join))
def test_any_name_of_a_model_is_answered(name):
    said = ''
    try:
        load_bundle(find_bundle(name))
    except BundleError as error:
        said = str(error)
    assert said.isprintable()


def test_hundreds_of_bundles_of_random_pieces_are_answered(tmp_path):
    """Whole lines of a valid one in any order and number: most are refused by the schema, some by the reader."""
    lines, chance = BUNDLE_YAML.splitlines(keepends=True), random.Random(0)
    for _ in range(300):
        is_answered(tmp_path, ''.join(chance.choices(lines, k=chance.randint(1, 40))).encode())

"""Is an ONNX file all that runs? Looked at whole, before any engine sees it, without the library `onnx`.

ONNX Runtime reads weights that a file keeps elsewhere from the current directory, where no hash covers them. And of a field that
stands twice where the format has it once, one reader takes the first, another the last, a third joins them: what was checked is
then not what runs. Both are refused, at any depth. The numbers are those of onnx.proto3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kd_perception.bundles.bundle import Artifact, Bundle
from kd_perception.bundles.onnx_wire import iterate_fields
from kd_perception.errors import EngineError

MAX_FIELDS = 5_000_000
"""A network of 100,000 operations has about a million; more would take minutes to look at."""
MAX_DEPTH = 64
"""Messages within messages; a graph in an attribute of an operation is three deeper."""


@dataclass(frozen=True)
class _Message:
    """A kind of message: the fields that may stand once, and those that are messages themselves."""

    name: str
    once: frozenset[int]
    parts: Mapping[int, str] = field(default_factory=dict)


def _message(name: str, once: tuple[int, ...], parts: Mapping[int, str] | None = None) -> _Message:
    return _Message(name, frozenset(once), parts or {})


_MESSAGES = {
    message.name: message
    for message in (
        _message('model', (1, 2, 3, 4, 5, 6, 7), {7: 'graph', 8: 'opset', 14: 'entry', 20: 'training', 25: 'function'}),
        _message('training', (1, 2), {1: 'graph', 2: 'graph', 3: 'entry', 4: 'entry'}),
        _message(
            'graph',
            (2, 10),
            {
                1: 'node',
                5: 'tensor',
                11: 'value',
                12: 'value',
                13: 'value',
                14: 'annotation',
                15: 'sparse',
                16: 'entry',
            },
        ),
        _message('function', (1, 8, 10, 13), {7: 'node', 9: 'opset', 11: 'attribute', 12: 'value', 14: 'entry'}),
        _message('node', (3, 4, 6, 7, 8), {5: 'attribute', 9: 'entry'}),
        _message(
            'attribute',
            (1, 2, 3, 4, 5, 6, 13, 14, 20, 21, 22),
            {5: 'tensor', 6: 'graph', 10: 'tensor', 11: 'graph', 14: 'type', 15: 'type', 22: 'sparse', 23: 'sparse'},
        ),
        _message('tensor', (2, 3, 8, 9, 12, 14), {3: 'segment', 13: 'entry', 16: 'entry'}),
        _message('sparse', (1, 2), {1: 'tensor', 2: 'tensor'}),
        _message('segment', (1, 2)),
        _message('value', (1, 2, 3), {2: 'type', 4: 'entry'}),
        _message('type', (1, 4, 5, 6, 7, 8, 9), {1: 'tensor type', 4: 'list', 5: 'map', 8: 'tensor type', 9: 'list'}),
        _message('tensor type', (1, 2), {2: 'shape'}),
        _message('list', (1,), {1: 'type'}),
        _message('map', (1, 2), {2: 'type'}),
        _message('shape', (), {1: 'size'}),
        _message('size', (1, 2, 3)),
        _message('annotation', (1,), {2: 'entry'}),
        _message('entry', (1, 2)),
        _message('opset', (1, 2)),
    )
}

_GRAPH = 7
_EXTERNAL_ENTRIES, _DATA_LOCATION = 13, 14
_OP_TYPE = 4
_COMPILED = b'EPContext'
"""ONNX Runtime's operation whose work lies compiled in another file."""
_ORT_FORMAT = b'ORTM'


def read_network(bundle: Bundle, artifact: Artifact) -> bytes:
    """An ONNX artifact's bytes, hashed as they were read, that depend on nothing else.

    Raises:
        BundleError: the file is missing or altered.
        EngineError: it is no ONNX file, or other files take part in it.
    """
    content = bundle.read(artifact)
    check_integrity(content, artifact.file)
    return content


def check_integrity(content: bytes, file: str) -> None:
    """Refuse what is not all that runs, or not the same to every reader.

    Args:
        content: the file.
        file: its name, for messages.

    Raises:
        EngineError: weights in other files, a field twice, or bytes that are no ONNX file.
    """
    if content[4:8] == _ORT_FORMAT:
        raise EngineError(f'cannot load {file}: it is in the format ORT, not ONNX; export the network as ONNX')
    try:
        _walk(memoryview(content))
    except EngineError as error:
        raise EngineError(f'cannot load {file}: {error}') from error
    except (ValueError, IndexError, TypeError) as error:
        raise EngineError(f'cannot load {file}: it is not an ONNX network, or damaged') from error


def _walk(content: memoryview) -> None:
    """Every message of the file, by a list of what is still to be looked at: nesting cannot exhaust Python's stack."""
    pending = [(_MESSAGES['model'], content, 0)]
    fields = 0
    while pending:
        kind, data, depth = pending.pop()
        if depth > MAX_DEPTH:
            raise EngineError(f'its messages are nested more than {MAX_DEPTH} deep')
        seen: set[int] = set()
        for number, value in iterate_fields(data):
            fields += 1
            if fields > MAX_FIELDS:
                raise EngineError(f'it has more than {MAX_FIELDS} fields; no detector has')
            if number in kind.once and number in seen:
                raise EngineError(
                    f'field {number} of a {kind.name} stands twice, and readers differ in which they take; '
                    'export the network again'
                )
            seen.add(number)
            _check_alone(kind, number, value)
            if number in kind.parts:
                if isinstance(value, int):
                    raise ValueError(f'field {number} of a {kind.name} is no message')
                pending.append((_MESSAGES[kind.parts[number]], value, depth + 1))
        if kind.name == 'model' and _GRAPH not in seen:
            raise ValueError('no graph')


def _check_alone(kind: _Message, number: int, value: int | memoryview) -> None:
    if kind.name == 'tensor' and (number == _EXTERNAL_ENTRIES or (number == _DATA_LOCATION and value != 0)):
        raise EngineError(
            'its weights are in another file (external data), which no hash covers; save the network as one file: '
            'onnx.save(onnx.load("net.onnx"), "one_file.onnx")'
        )
    if kind.name == 'node' and number == _OP_TYPE and not isinstance(value, int) and bytes(value) == _COMPILED:
        raise EngineError('an operation EPContext takes its work from another file; export the network itself')

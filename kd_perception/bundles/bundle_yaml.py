"""Reads `bundle.yaml`, which may be anybody's: plain values only, each with its line, checked against the schema."""

from __future__ import annotations

import functools
import json
import math
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from kd_perception.errors import BundleError
from kd_perception.regular_file import read_regular, shown

Place = tuple[str | int, ...]
"""Keys and indices from the document's root to a value."""

SCHEMA_FILE = Path(__file__).with_name('bundle.schema.json')
MAX_BYTES = 1 << 18
_MAX_DEPTH = 24
_MAX_NUMBER_CHARACTERS = 32
_MAX_MESSAGE = 300
_UNICODE_LINE_BREAKS = '\x85\u2028\u2029'
_OTHER_SPELLINGS: dict[Place, dict[str, str]] = {(): {'licence': 'license'}, ('input',): {'colour': 'color'}}
"""Keys as bundles of before had them: path of the mapping → old key → the one that is written now."""

_Loader: Any = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)  # the one in C where the wheel has it
_Event = Any  # PyYAML's events have no types


@dataclass(frozen=True)
class Document:
    """A bundle.yaml.

    Attributes:
        path: the file, for messages.
        values: the root mapping: text, finite numbers, booleans, None, lists and mappings with text keys.
        lines: the line of every value by its place, counted from 1.
    """

    path: Path
    values: dict[str, Any]
    lines: Mapping[Place, int]

    def error(self, place: Place, message: str) -> BundleError:
        """The refusal of one value: file, line, place, and what is wrong."""
        line = next(self.lines[place[:end]] for end in range(len(place), -1, -1) if place[:end] in self.lines)
        name = ''.join(f'[{step}]' if isinstance(step, int) else f'.{step}' for step in place).removeprefix('.')
        text = f'{shown(self.path)}:{line}: {shown(name) or "document"}: {" ".join(message.split())}'
        return BundleError(text if len(text) <= _MAX_MESSAGE else text[: _MAX_MESSAGE - 1] + '…')


def read(path: Path) -> Document:
    """Read and check a file.

    Raises:
        BundleError: it is no regular file, larger than `MAX_BYTES`, not YAML of plain values, or not valid by the schema.
    """
    document = parse(read_regular(path, MAX_BYTES), path)
    check(document)
    return document


def parse(content: bytes, path: Path) -> Document:
    """The values of a YAML text. Aliases, tags, repeated keys, control characters and numbers that are not finite are refused.

    Raises:
        BundleError: names the line.
    """
    if len(content) > MAX_BYTES:
        raise BundleError(f'{shown(path)} is larger than {MAX_BYTES} bytes; that is no bundle.yaml')
    try:
        text = content.decode('utf-8')
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b'\n') + 1
        raise BundleError(f'{shown(path)}:{line}: cannot be read: it is not UTF-8') from error
    reader = _Reader(path)
    try:
        values = reader.document(yaml.parse(text, Loader=_Loader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise BundleError(f'{shown(path)}:{line}: cannot be read: {shown(error.problem or error.context)}') from error
    except yaml.YAMLError as error:  # a character that YAML does not allow, which comes without a line
        raise BundleError(f'{shown(path)}:1: cannot be read: {shown(" ".join(str(error).split()))}') from error
    document = Document(path, values if isinstance(values, dict) else {}, reader.lines)
    if not isinstance(values, dict):
        raise document.error((), 'not a mapping of keys to values')
    return document


def text_of(values: Mapping[str, Any]) -> str:
    """The YAML text of a document.

    Raises:
        BundleError: it holds what YAML has no plain form for.
    """
    try:
        text: str = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True, width=120)
        if any(line_break in text for line_break in _UNICODE_LINE_BREAKS):  # which would be read as spaces
            text = yaml.safe_dump(dict(values), sort_keys=False, width=120)
        return text
    except (yaml.YAMLError, RecursionError) as error:
        raise BundleError(
            f'a bundle holds text, finite numbers, lists and mappings: {shown(" ".join(str(error).split()))}'
        ) from error


def check(document: Document) -> None:
    """Hold a document against the schema.

    Raises:
        BundleError: names the first fault.
    """
    fault = next(_validator().iter_errors(document.values), None)
    if fault is not None:
        raise document.error(tuple(fault.absolute_path), _message(fault))
    seen: set[str] = set()
    for number, name in enumerate(document.values['classes']):
        if name in seen:  # not by the schema, whose comparison is quadratic
            raise document.error(('classes', number), f'{name!r} is there twice')
        seen.add(name)


def _message(fault: jsonschema.ValidationError) -> str:
    """The library's message, without the whole value where that is long."""
    if len(fault.message) <= _MAX_MESSAGE // 2:
        return str(fault.message)
    return f'{fault.validator} of {shown(fault.validator_value)} does not hold for {shown(repr(fault.instance))}'


@functools.cache
def _validator() -> Any:
    """The schema's validator. JSON takes 640.0 for an integer; whoever uses it as one would not."""
    integers = jsonschema.Draft202012Validator.TYPE_CHECKER.redefine(
        'integer', lambda _, value: isinstance(value, int) and not isinstance(value, bool)
    )
    kind: Any = jsonschema.validators.extend(jsonschema.Draft202012Validator, type_checker=integers)  # type: ignore[no-untyped-call]
    return kind(json.loads(SCHEMA_FILE.read_text(encoding='utf-8')))


class _Reader:
    """Builds values from events, so that nothing is expanded, constructed or nested before it was looked at."""

    def __init__(self, path: Path) -> None:
        self.lines: dict[Place, int] = {(): 1}
        self._path = path
        self._resolver: Any = yaml.resolver.Resolver()
        self._numbers: Any = yaml.constructor.SafeConstructor()

    def document(self, events: Iterator[_Event]) -> Any:
        """The one document of a stream; None for an empty one."""
        values, count = None, 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                count += 1
                if count > 1:
                    raise self._error(event, 'a second document begins here')
                values = self._value(next(events), events, ())
        return values

    def _value(self, event: _Event, events: Iterator[_Event], place: Place) -> Any:
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise self._error(event, 'YAML aliases are not allowed')
        if event.tag not in (None, '!'):
            raise self._error(event, f'the tag {shown(event.tag)} is not allowed')
        if len(place) > _MAX_DEPTH:
            raise self._error(event, f'nested deeper than {_MAX_DEPTH}')
        self.lines[place] = event.start_mark.line + 1
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(events, place)
        return self._mapping(events, place)

    def _sequence(self, events: Iterator[_Event], place: Place) -> list[Any]:
        values: list[Any] = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            values.append(self._value(event, events, (*place, len(values))))
        return values

    def _mapping(self, events: Iterator[_Event], place: Place) -> dict[str, Any]:
        values: dict[str, Any] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            key = self._value(event, events, (*place, '')) if isinstance(event, yaml.ScalarEvent) else None
            if not isinstance(key, str):
                raise self._error(event, 'a key is not text')
            key = _OTHER_SPELLINGS.get(place, {}).get(key, key)
            if key in values:
                raise self._error(event, f'the key {shown(key)} is there twice')
            values[key] = self._value(next(events), events, (*place, key))
        return values

    def _scalar(self, event: _Event) -> str | int | float | bool | None:
        """Text, unless YAML takes it for a number, a truth value or nothing. A date stays text: JSON schema knows no dates."""
        text: str = event.value
        tag = self._resolver.resolve(yaml.ScalarNode, text, event.implicit).rpartition(':')[2]
        if tag == 'null':
            return None
        if tag not in ('bool', 'int', 'float'):
            return self._text(event, text)
        node = yaml.ScalarNode(tag, text, event.start_mark)
        if tag == 'bool':
            return bool(self._numbers.construct_yaml_bool(node))
        if len(text) > _MAX_NUMBER_CHARACTERS:
            raise self._error(event, f'a number of {len(text)} digits')
        try:
            number = (self._numbers.construct_yaml_int if tag == 'int' else self._numbers.construct_yaml_float)(node)
            finite = math.isfinite(float(number))
        except (ValueError, OverflowError, IndexError):
            return self._text(event, text)
        if not finite:
            raise self._error(event, f'{text} is not a finite number')
        return number  # type: ignore[no-any-return]

    def _text(self, event: _Event, text: str) -> str:
        for character in text:
            if unicodedata.category(character) in ('Cc', 'Cs') and character not in '\n\t':
                raise self._error(event, f'{character!r} is a control character or half of one')
        return text

    def _error(self, event: _Event, message: str) -> BundleError:
        return BundleError(f'{shown(self._path)}:{event.start_mark.line + 1}: cannot be read: {message}')

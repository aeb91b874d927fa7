"""Plain YAML mappings → frozen dataclasses of settings, with errors that name the entry and offer the nearest one."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from training.errors import RecipeError, TrainingError

Settings = TypeVar('Settings')


def added(default: Any = dataclasses.MISSING, *, default_factory: Any = dataclasses.MISSING, init: bool = True) -> Any:
    """A field that came after results were made: at its default it does not count, so that what was made stays made."""
    counts = {_COUNTS: 'unless default'}
    return dataclasses.field(default=default, default_factory=default_factory, metadata=counts, init=init)


def renewed(default: Any, before: Any) -> Any:
    """A field whose default has changed since results were made: what was done before does not count, all else does."""
    return dataclasses.field(default=default, metadata={_COUNTS: 'unless before', _BEFORE: before})


def aside(default: Any) -> Any:
    """A field that no result depends on: where files are kept, how much room they may take."""
    return dataclasses.field(default=default, metadata={_COUNTS: 'never'})


def counted(settings: Any) -> Any:
    """Settings as plain values, without the fields that do not count: what a result depends on.

    Args:
        settings: a dataclass, or lists and mappings of them.

    Example:
        >>> from training.distill.settings import TermSettings
        >>> 'teacher' in counted(TermSettings('cwd')), 'teacher' in counted(TermSettings('cwd', teacher='large'))
        (False, True)
    """
    if dataclasses.is_dataclass(settings) and not isinstance(settings, type):
        return {
            field.name: counted(getattr(settings, field.name))
            for field in dataclasses.fields(settings)
            if _counts(field, getattr(settings, field.name))
        }
    if isinstance(settings, Mapping):
        return {name: counted(value) for name, value in settings.items()}
    if isinstance(settings, (list, tuple)):
        return [counted(value) for value in settings]
    return settings


def _counts(field: dataclasses.Field[Any], value: object) -> bool:
    rule = field.metadata.get(_COUNTS, 'always')
    if rule == 'unless before':
        return bool(value != field.metadata[_BEFORE])
    if rule != 'unless default':
        return bool(rule == 'always')
    made = field.default_factory
    return bool(value != (field.default if made is dataclasses.MISSING else made()))


GONE = 'GONE'
"""Attribute of a dataclass: its entries of earlier versions, and for each what takes its place."""
_COUNTS, _BEFORE = 'counts', 'before'


def read(kind: type[Settings], entries: object, where: str) -> Settings:
    """Build `kind`, a dataclass whose fields may be dataclasses themselves, tuples or mappings of them.

    Args:
        kind: the dataclass; fields without a default must be given.
        entries: what the YAML file holds there.
        where: what errors call the place, `recipe.yaml: stages.teacher`.

    Raises:
        RecipeError: no mapping, an unknown entry (the nearest name is offered), one missing, a value of another type, or one
            that the dataclass itself refuses.

    Example:
        >>> from training.quantize.qdq import QuantizeSettings
        >>> read(QuantizeSettings, {'method': 'percentile'}, 'quantize').method
        'percentile'
    """
    if not isinstance(entries, Mapping):
        raise RecipeError(f'{where} must hold entries "name: value", not {entries!r}')
    known = {field.name: field for field in dataclasses.fields(typing.cast(Any, kind)) if field.init}
    for name in entries:
        if name in (gone := getattr(kind, GONE, {})):
            raise RecipeError(f'{where}: {name} is gone: {gone[name]}')
        if name not in known:
            raise RecipeError(
                f'{where} has no entry {name!r}{nearest(str(name), known)}; entries are {", ".join(known)}'
            )
    missing = [
        name
        for name, field in known.items()
        if name not in entries and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise RecipeError(f'{where} lacks {", ".join(missing)}')
    hints = typing.get_type_hints(kind)
    values = {name: _value(hints[name], value, f'{where}.{name}') for name, value in entries.items()}
    try:
        return kind(**values)
    except (TypeError, ValueError, TrainingError) as error:
        raise RecipeError(f'{where}: {error}') from error


def nearest(name: str, known: Mapping[str, Any] | Sequence[str]) -> str:
    """`: did you mean 'x'?`, or nothing where no name is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f': did you mean {near[0]!r}?' if near else ''


def _value(hint: Any, value: object, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin is typing.Literal:
        if value not in arguments:
            raise RecipeError(f'{where} must be {" or ".join(map(str, arguments))}, not {value!r}')
        return value
    if origin in (typing.Union, types.UnionType):
        return _any_of(arguments, value, where)
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, typing.cast(type, hint)) else read(typing.cast(type, hint), value, where)
    if origin is tuple:
        return _sequence(arguments, value, where)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise RecipeError(f'{where} must hold entries "name: value", not {value!r}')
        return {str(name): _value(arguments[1], item, f'{where}.{name}') for name, item in value.items()}
    return _plain(hint, value, where)


def _any_of(kinds: tuple[Any, ...], value: object, where: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    others = [kind for kind in kinds if kind is not type(None)]
    # Of entries "name: value", only settings can be what is meant, and their refusal says what is wrong.
    settings = [kind for kind in others if dataclasses.is_dataclass(kind)] if isinstance(value, Mapping) else []
    refusals = []
    for kind in settings or others:
        try:
            return _value(kind, value, where)
        except RecipeError as error:
            refusals.append(error)
    raise refusals[0]


def _sequence(kinds: tuple[Any, ...], value: object, where: str) -> tuple[Any, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise RecipeError(f'{where} must be a list, not {value!r}')
    if kinds[-1] is Ellipsis:
        return tuple(_value(kinds[0], item, f'{where}[{number}]') for number, item in enumerate(value))
    if len(value) != len(kinds):
        raise RecipeError(f'{where} must hold {len(kinds)} values, not {len(value)}')
    return tuple(
        _value(kind, item, f'{where}[{number}]') for number, (kind, item) in enumerate(zip(kinds, value, strict=True))
    )


def _plain(kind: Any, value: object, where: str) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is float and isinstance(value, str):  # YAML 1.1 reads 1e-4 as text
        try:
            return float(value)
        except ValueError:
            pass
    if isinstance(value, bool) and kind is not bool:
        raise RecipeError(f'{where} must be {_NAMES.get(kind, kind)}, not {str(value).lower()}')
    if not isinstance(value, kind):
        raise RecipeError(f'{where} must be {_NAMES.get(kind, kind)}, not {value!r}')
    return value


_NAMES = {int: 'a whole number', float: 'a number', str: 'text', bool: 'true or false'}

"""One parameter: its name, type and limits, and how any value that ROS can bring is read as one of its own, or refused."""

from __future__ import annotations

import difflib
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.parameter import Parameter

from kd_perception.errors import KdPerceptionError

MAX_TEXT = 4096
"""Longest text, in characters: as long as a path may be."""
MAX_ENTRIES = 64
"""Longest list."""

OFF = 'off'
"""YAML reads this word as false, so false is accepted for it."""

_TYPES: dict[str, tuple[type, Parameter.Type, str]] = {
    'bool': (bool, Parameter.Type.BOOL, 'true or false'),
    'int': (int, Parameter.Type.INTEGER, 'an integer'),
    'double': (float, Parameter.Type.DOUBLE, 'a number'),
    'string': (str, Parameter.Type.STRING, 'a text'),
    'string_array': (list, Parameter.Type.STRING_ARRAY, 'a list of texts'),
}


class ParameterError(KdPerceptionError):
    """A value that a parameter cannot have; names the parameter and what it may be."""


@dataclass(frozen=True)
class ParameterSpec:
    """One parameter: what it is called, what it may hold, and what it is for."""

    name: str
    type: str
    default_value: Any
    description: str
    read_only: bool = False
    bounds: tuple[float, float] | None = None
    one_of: tuple[str, ...] = ()
    former_name: str = ''
    own_check: Callable[[Any], None] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.default_value, _TYPES[self.type][0]):
            raise ValueError(f'parameter {self.name}: default {self.default_value!r} is not of type {self.type}')
        try:
            self.check(self.default_value)
        except ParameterError as error:
            raise ValueError(f'the default of {error}') from error

    @property
    def ros_type(self) -> Parameter.Type:
        """Its type as ROS names it."""
        return _TYPES[self.type][1]

    def read(self, given: Any) -> Any:
        """The parameter's value for what a user gave, whichever way: YAML, command line or a service.

        Accepted where nothing is lost: false for `off`, an integer for a number, one text for a list of one, an empty list for
        the default (in a parameter file, `[]` has no type and arrives as None).

        Raises:
            ParameterError: there is no such value; names the parameter and what it may be.
        """
        value = self._converted(given)
        if type(value) is not _TYPES[self.type][0]:
            wanted = f'one of {", ".join(self.one_of)}' if self.one_of else _TYPES[self.type][2]
            raise ParameterError(f'{self.name} must be {wanted}, not {shown(given)}')
        self.check(value)
        return value

    def check(self, value: Any) -> None:
        """Raise ParameterError where a value of the right type is outside of what is allowed."""
        if self.one_of and value not in self.one_of:
            near = difflib.get_close_matches(str(value), self.one_of, n=1)
            hint = f'; did you mean {near[0]!r}?' if near else ''
            raise ParameterError(f'{self.name} must be one of {", ".join(self.one_of)}, not {shown(value)}{hint}')
        if self.bounds and not self.bounds[0] <= value <= self.bounds[1]:
            raise ParameterError(f'{self.name} must lie in [{self.bounds[0]}, {self.bounds[1]}], not {shown(value)}')
        if isinstance(value, str):
            self._check_text(value, may_be_empty=self.default_value == '')
        if isinstance(value, list):
            self._check_list(value)
        if self.own_check:
            self.own_check(value)

    def descriptor(self) -> ParameterDescriptor:
        """The ROS descriptor: type, description, range, read-only."""
        descriptor = ParameterDescriptor(
            name=self.name, type=self.ros_type.value, description=self.description, read_only=self.read_only
        )
        if self.one_of:
            descriptor.additional_constraints = f'one of: {", ".join(self.one_of)}'
        if self.bounds and self.type == 'double':
            low, high = (float(b) for b in self.bounds)
            descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high, step=0.0)]
        elif self.bounds:
            low, high = (int(b) for b in self.bounds)
            descriptor.integer_range = [IntegerRange(from_value=low, to_value=high, step=0)]
        return descriptor

    def _converted(self, given: Any) -> Any:
        if self.type == 'string_array':
            return self._list(given)
        if self.type == 'string' and given is False and OFF in (self.default_value, *self.one_of):
            return OFF
        if self.type == 'double' and type(given) is int:
            return float(given)
        if self.type == 'double' and isinstance(given, str):
            return _number(given)  # YAML takes 1e-05, as Python writes it, for a text
        return given

    def _list(self, given: Any) -> Any:
        if isinstance(given, str):
            return [given]
        if given is None:
            return self.default_value
        if isinstance(given, (list, tuple, array)):
            return list(given) or self.default_value
        return given

    def _check_list(self, value: list[Any]) -> None:
        if len(value) > MAX_ENTRIES:
            raise ParameterError(f'{self.name} has {len(value)} entries; at most {MAX_ENTRIES} are allowed')
        for entry in value:
            if not isinstance(entry, str):
                raise ParameterError(f'{self.name} must be a list of texts; {shown(entry)} is none')
            self._check_text(entry, may_be_empty=True)

    def _check_text(self, text: str, may_be_empty: bool) -> None:
        if not (text or may_be_empty):
            raise ParameterError(f'{self.name} must not be empty; its default is {self.default_value!r}')
        if len(text) > MAX_TEXT:
            raise ParameterError(f'{self.name} has {len(text)} characters; at most {MAX_TEXT} are allowed')
        if not text.isprintable():
            raise ParameterError(f'{self.name} must be printable text, not {shown(text)}')


def shown(value: Any) -> str:
    """A value in a message: short, and in one line whatever is in it."""
    if value is None:
        return '[]'
    if isinstance(value, bool):
        return 'true' if value else 'false'
    text = repr(list(value) if isinstance(value, array) else value)
    return text if len(text) <= 60 else f'{text[:59]}…'


def _number(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text

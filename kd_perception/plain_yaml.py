"""YAML of strangers as lists, mappings and texts: bounded in size and depth, without aliases, tags and types."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

MAX_NODES = 500_000
"""Texts, lists and mappings. The metadata of a recording in thousands of files has 100,000."""
MAX_DEPTH = 16


def plain_yaml(text: str) -> Any:
    """Lists, mappings and texts of a YAML document; numbers stay texts. In one pass, so that its size bounds the work.

    Raises:
        ValueError: aliases, directives, keys that are no texts or come twice, too many nodes, nested too deeply.
        yaml.YAMLError: no YAML.
    """
    if text.startswith('%') or '\n%' in text:  # the work for directives grows with their square
        raise ValueError('it holds a YAML directive')
    loader = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)
    events = yaml.parse(text, Loader=loader)
    for event in events:
        if not isinstance(event, (yaml.StreamStartEvent, yaml.DocumentStartEvent)):
            return _node(event, events, 0, [0])
    return None


def _node(event: Any, events: Iterator[Any], depth: int, nodes: list[int]) -> Any:
    nodes[0] += 1
    if depth > MAX_DEPTH or nodes[0] > MAX_NODES:
        raise ValueError('it is nested too deeply' if depth > MAX_DEPTH else f'it has more than {MAX_NODES} entries')
    if isinstance(event, yaml.ScalarEvent):
        plain = event.style is None or event.style == ''
        return None if plain and event.value in ('', '~', 'null') else event.value
    if isinstance(event, yaml.SequenceStartEvent):
        items = []
        while not isinstance(item := next(events), yaml.SequenceEndEvent):
            items.append(_node(item, events, depth + 1, nodes))
        return items
    if isinstance(event, yaml.MappingStartEvent):
        return _mapping(events, depth, nodes)
    raise ValueError('it holds an alias' if isinstance(event, yaml.AliasEvent) else 'it ends early')


def _mapping(events: Iterator[Any], depth: int, nodes: list[int]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    while not isinstance(event := next(events), yaml.MappingEndEvent):
        if not isinstance(event, yaml.ScalarEvent):
            raise ValueError('a key of it is no text')
        if event.value in found or event.value == '<<':
            raise ValueError(
                f'it holds the key {event.value[:40]!r} twice' if event.value in found else 'it merges keys'
            )
        found[event.value] = _node(next(events), events, depth + 1, nodes)
    return found

"""Topics and services as data: what `interface.yaml` says of the nodes, and the tables made of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

SOURCE = Path(__file__).with_name('interface.yaml')


@dataclass(frozen=True)
class Endpoint:
    """A topic or service of a node.

    Attributes:
        name: relative, absolute, or `~/…` below the node's own name.
        direction: in, out or service.
        type: such as sensor_msgs/msg/Image.
        description: for the documentation.
        per_camera: with several cameras each has one, in its own namespace.
        reliability: reliable or best_effort; empty of a service, as the next two are without meaning there.
        durability: volatile or transient_local.
        depth: messages that are kept.
        when: parameter → values with which it is there; with all where it is empty.
        needs: the ROS package without which it is not there; may be empty.
    """

    name: str
    direction: str
    type: str
    description: str
    per_camera: bool = False
    reliability: str = ''
    durability: str = 'volatile'
    depth: int = 0
    when: Mapping[str, list[str]] = field(default_factory=dict)
    needs: str = ''

    def is_there(self, values: Mapping[str, Any]) -> bool:
        """Whether a node with these parameters has it, as far as packages do not matter."""
        return all(values[name] in wanted for name, wanted in self.when.items())

    def row(self) -> str:
        """Its row of the table."""
        names = f'`{self.name}`' + (f', `<camera>/{self.name}`' if self.per_camera else '')
        durable = 'transient local' if self.durability == 'transient_local' else ''
        depth = f'depth {self.depth}' if self.depth else ''
        profile = ', '.join(filter(None, [self.reliability.replace('_', ' '), durable, depth]))
        kind = self.type.replace('/msg/', '/').replace('/srv/', '/')
        lack = f' Needs {self.needs}; without it the topic is absent, and the log says so.' if self.needs else ''
        return f'| {self.direction} | {names} | {kind} | {profile} | {self.description}{lack} |'


@cache
def endpoints(node: str) -> tuple[Endpoint, ...]:
    """All that a node has beside what ROS gives every node, in the order of the file."""
    document = yaml.safe_load(SOURCE.read_text(encoding='utf-8'))
    return tuple(
        Endpoint(name, **{key: value for key, value in entry.items() if key != 'qos'}, **entry.get('qos', {}))
        for name, entry in document[node].items()
    )


def as_markdown(node: str) -> str:
    """The table of a node's topics and services in its page of docs/."""
    head = '| | name | type | QoS | |\n|---|---|---|---|---|\n'
    return head + ''.join(f'{endpoint.row()}\n' for endpoint in endpoints(node))

"""The bond by which nav2's lifecycle_manager sees that an active node is alive: ROS's bondpy, where that is installed."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from rclpy.node import Node

TOPIC = 'bond'
"""nav2's name, in the node's namespace; the bond's id is the node's name."""


def _bond_class() -> Any:
    """ROS's `bondpy.bondpy.Bond`; None where there is none. PyPI's bondpy is another project, so that the signature decides."""
    try:
        found = importlib.import_module('bondpy.bondpy').Bond
        parameters = list(inspect.signature(found).parameters)
    except Exception:  # whatever goes wrong in a package that is perhaps not the one that is meant
        return None
    is_ros = parameters[:3] == ['node', 'topic', 'id'] and all(
        hasattr(found, n) for n in ('start', 'break_bond', 'shutdown')
    )
    return found if is_ros else None


class ManagerBond:
    """Formed while the node is active. Without bondpy it does nothing, and the manager needs `bond_timeout: 0.0`."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._bond: Any = None

    def form(self) -> None:
        """Begin to beat; a manager that waits for it answers."""
        found = _bond_class()
        if found is not None and self._bond is None:
            self._bond = found(self._node, TOPIC, self._node.get_name())
            self._bond.start()

    def end(self) -> None:
        """Tell the manager that the node is no longer active; where there is no bond, nothing happens."""
        bond, self._bond = self._bond, None
        if bond is not None:
            bond.break_bond()
            bond.shutdown()

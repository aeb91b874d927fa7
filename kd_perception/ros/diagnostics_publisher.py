"""What the tasks report goes to /diagnostics, and, when a condition begins or is over, to the log."""

from __future__ import annotations

import time
from collections.abc import Sequence

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from std_msgs.msg import Header

from kd_perception.ros.condition_log import ConditionLog
from kd_perception.ros.diagnostics import NO_MODEL, WAITING, TaskReport

GRACE_S = {WAITING: 3.0, NO_MODEL: 3.0}
"""What every start begins with is logged only when it lasts."""


class DiagnosticsPublisher:
    """Publishes on /diagnostics under the node's full name, which is also the `hardware_id`: it never changes."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._publisher = node.create_publisher(DiagnosticArray, '/diagnostics', 10)
        self._log = ConditionLog(node.get_logger(), GRACE_S)

    def publish(self, reports: Sequence[TaskReport]) -> None:
        """Publish the reports of all tasks, whose names become `<node>: <task>`."""
        name, now = self._node.get_fully_qualified_name().lstrip('/'), time.monotonic()
        for report in reports:
            status = report.status
            self._log.update(status.name, status.level, report.condition, status.message, now)
            status.name, status.hardware_id = f'{name}: {status.name}', name
        stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(DiagnosticArray(header=Header(stamp=stamp), status=[r.status for r in reports]))

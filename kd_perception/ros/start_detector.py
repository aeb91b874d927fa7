"""The program detector_node. It obeys signals from its first line on, before it imports what takes a second."""

from __future__ import annotations

import sys

from kd_perception.ros.process import end_at_once_on_signals


def main() -> int:
    """Run the node until SIGINT or SIGTERM."""
    end_at_once_on_signals('detector: 0 frames received, 0 published, dropped: none')
    from kd_perception.ros import detector_node

    return detector_node.main()


if __name__ == '__main__':
    sys.exit(main())

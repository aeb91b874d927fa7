"""Builds foxglove_msgs; see ../rosidl_package.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import rosidl_package

rosidl_package.build()

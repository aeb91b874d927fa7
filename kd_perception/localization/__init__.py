"""Localization: from boxes in pixels to positions in meters, by a depth image or by flat ground. No ROS."""

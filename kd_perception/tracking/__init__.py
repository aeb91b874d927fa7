"""Tracking: ids that stay with an object from frame to frame. No ROS."""

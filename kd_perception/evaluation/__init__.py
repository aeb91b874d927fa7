"""Measuring detectors against ground truth; no ROS."""

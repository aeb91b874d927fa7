"""Running a detector over recorded frames, frame by frame; no ROS."""

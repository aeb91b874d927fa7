"""One frame: from an image's bytes to detections, with the time of every stage. No ROS, no threads, no engine files."""

"""The ROS-free, torch-free core: from an image's bytes to detections, with every stage's time."""

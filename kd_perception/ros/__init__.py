"""The ROS 2 side: thin nodes that move data between messages and the core."""

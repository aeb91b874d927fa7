"""Live frames without ROS: the latest-frame queue, frame counters, the model that runs, load shedding."""

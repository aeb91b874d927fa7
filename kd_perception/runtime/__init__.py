"""Live frames without ROS: the latest-frame queue, the pipeline, frame counters, the model that runs, load shedding."""

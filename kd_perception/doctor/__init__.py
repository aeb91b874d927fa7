"""`kd_perception doctor`: what of this machine, its ROS 2, its engines and its models is well, and what to do about the rest."""

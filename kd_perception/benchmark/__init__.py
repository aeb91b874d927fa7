"""`kd_perception benchmark`: every engine, precision and number of threads that can run a bundle here, side by side."""

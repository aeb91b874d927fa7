"""kd_perception: compressed object detectors on a robot, with every frame's latency accounted for."""

__version__ = '0.1.0'

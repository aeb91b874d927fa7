# The detector on a 64-bit Raspberry Pi OS, which has no ROS 2 of its own: ROS 2 Jazzy in a container. Not built by us, for want of
# a board.
#
# On the Pi, from the repository's root:
#
#   docker build -f deploy/raspberry_pi.Dockerfile -t kd_perception:pi .
#   docker run --rm --network host --ipc host -v kd_perception_cache:/cache kd_perception:pi \
#       ros2 launch kd_perception detector.launch.py image:=/camera/image_raw profile:=raspberry_pi_5
#
# Which engine is the fastest on your Pi:
#   docker run --rm kd_perception:pi kd_perception benchmark

FROM ros:jazzy-ros-base

ENV DEBIAN_FRONTEND=noninteractive LANG=C.UTF-8
RUN apt-get update && apt-get install -y --no-install-recommends ros-jazzy-vision-msgs ros-jazzy-cv-bridge \
        ros-jazzy-diagnostic-msgs python3-opencv python3-yaml python3-venv \
    && rm -rf /var/lib/apt/lists/*

COPY . /opt/kd_perception
# The distribution's messages and cv_bridge were compiled for numpy 1: the constraints keep it.
RUN python3 -m venv --system-site-packages /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir -c /opt/kd_perception/requirements/sourced.txt "/opt/kd_perception[engines]"

ENV PATH=/opt/venv/bin:$PATH KD_PERCEPTION_CACHE=/cache OMP_WAIT_POLICY=PASSIVE
VOLUME /cache
RUN printf '#!/bin/bash\nsource /opt/ros/jazzy/setup.bash\nexport AMENT_PREFIX_PATH=/opt/venv:$AMENT_PREFIX_PATH\nexec "$@"\n' \
    > /entrypoint.sh && chmod +x /entrypoint.sh
ENTRYPOINT ["/entrypoint.sh"]
CMD ["ros2", "launch", "kd_perception", "detector.launch.py"]

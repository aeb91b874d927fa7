# The detector on a Jetson with JetPack 6: ROS 2 Humble beside JetPack's CUDA and TensorRT. Not built by us, for want of a board.
#
# On the Jetson, from the repository's root (r36.4.0 is JetPack 6.1; take the tag of your L4T: cat /etc/nv_tegra_release):
#
#   docker build -f deploy/jetson.Dockerfile -t kd_perception:jetson --build-arg L4T=r36.4.0 .
#   docker run --rm --runtime nvidia --network host --ipc host -v kd_perception_cache:/cache kd_perception:jetson \
#       ros2 launch kd_perception detector.launch.py image:=/camera/image_raw engine:=tensorrt precision:=fp16
#
# Prove it first, and report what it prints:
#   docker run --rm --runtime nvidia -v kd_perception_cache:/cache kd_perception:jetson kd_perception doctor --self-test tensorrt

ARG L4T=r36.4.0
FROM nvcr.io/nvidia/l4t-jetpack:${L4T}

ENV DEBIAN_FRONTEND=noninteractive LANG=C.UTF-8 ROS_DISTRO=humble
RUN apt-get update && apt-get install -y --no-install-recommends curl ca-certificates python3-pip python3-venv \
    && curl -fsSL https://raw.githubusercontent.com/ros/rosdistro/master/ros.key -o /usr/share/keyrings/ros.gpg \
    && echo "deb [arch=arm64 signed-by=/usr/share/keyrings/ros.gpg] http://packages.ros.org/ros2/ubuntu jammy main" \
        > /etc/apt/sources.list.d/ros2.list \
    && apt-get update && apt-get install -y --no-install-recommends ros-humble-ros-base ros-humble-vision-msgs \
        ros-humble-cv-bridge ros-humble-diagnostic-msgs python3-libnvinfer python3-opencv python3-yaml \
    && rm -rf /var/lib/apt/lists/*

COPY . /opt/kd_perception
# The distribution's messages and cv_bridge were compiled for numpy 1: the constraints keep it.
RUN python3 -m venv --system-site-packages /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir -c /opt/kd_perception/requirements/sourced.txt /opt/kd_perception

ENV PATH=/opt/venv/bin:$PATH KD_PERCEPTION_CACHE=/cache OMP_WAIT_POLICY=PASSIVE
VOLUME /cache
RUN printf '#!/bin/bash\nsource /opt/ros/humble/setup.bash\nexport AMENT_PREFIX_PATH=/opt/venv:$AMENT_PREFIX_PATH\nexec "$@"\n' \
    > /entrypoint.sh && chmod +x /entrypoint.sh
ENTRYPOINT ["/entrypoint.sh"]
CMD ["ros2", "launch", "kd_perception", "detector.launch.py"]

"""Installs kd_perception by `pip install .` and by colcon, so that ros2 run and ros2 launch find it either way."""

import re
from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = 'kd_perception'
# setuptools takes relative paths only.
ROOT = Path('.')


def version() -> str:
    """The version, from the package itself."""
    match = re.search(r"__version__ = '(.+)'", (ROOT / PACKAGE / '__init__.py').read_text())
    if match is None:
        raise RuntimeError(f'{PACKAGE}/__init__.py holds no __version__')
    return match[1]


def shared(*folders: str) -> list[tuple[str, list[str]]]:
    """data_files that lay every file of `folders` under share/, in the same folders."""
    files = sorted(path for folder in folders for path in (ROOT / folder).rglob('*') if path.is_file())
    parents = sorted({path.parent for path in files if '__pycache__' not in path.parts})
    return [
        (f'share/{PACKAGE}/{parent.as_posix()}', [str(path) for path in files if path.parent == parent])
        for parent in parents
    ]


def data_of_package() -> list[str]:
    """Every file of the package that is not Python. Listed, because Humble's setuptools does not know `**`."""
    files = (path for path in (ROOT / PACKAGE).rglob('*') if path.is_file() and '__pycache__' not in path.parts)
    return sorted(path.relative_to(PACKAGE).as_posix() for path in files if path.suffix != '.py')


# Bags without ROS, accuracy, the report and the progress bars of `evaluate`, `detect`, `bag`, `compare` and `replay`.
EVALUATION = [
    *('faster-coco-eval>=1.6', 'Jinja2>=3.0', 'rosbags>=0.10', 'tqdm>=4.60'),
    *('backports.zstd>=1.0; python_version < "3.14"', 'lz4>=3'),
]

setup(
    name=PACKAGE,
    version=version(),
    description="Compressed object detectors on a robot, with every frame's latency accounted for.",
    long_description=(ROOT / 'README.md').read_text() if (ROOT / 'README.md').exists() else '',
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    maintainer='kd_perception developers',
    maintainer_email='kd-perception@example.org',
    python_requires='>=3.10',
    packages=find_packages(include=[PACKAGE, f'{PACKAGE}.*']),
    package_data={PACKAGE: data_of_package()},
    # ROS packages (rclpy, vision_msgs, launch …) are in package.xml: most are not on PyPI, and the `launch` that
    # is there is another project.
    install_requires=[
        'numpy>=1.26',
        'opencv-python-headless>=4.5.4,<5',
        'PyYAML>=5.4',
        'jsonschema>=4.0',
        'onnxruntime>=1.17',
        # libjpeg-turbo's warnings: a JPEG that lacks pixels; without it OpenCV decodes (package.xml has no key for it).
        'simplejpeg>=1.7',
    ],
    extras_require={
        'evaluation': EVALUATION,
        # av brings FFmpeg with x264 (GPL) for videos, in and out; the node never loads it.
        'demo': [*EVALUATION, 'av>=12'],
        # What `colcon test` looks for: with pytest in this extra it runs pytest.
        'test': [
            *(*EVALUATION, 'av>=12', 'onnx>=1.17', 'pycocotools>=2.0.6'),
            *('hypothesis>=6', 'pytest>=7.4', 'pytest-timeout>=2'),
        ],
        'development': [
            *('hypothesis>=6.100', 'pycocotools>=2.0.8'),
            *('pytest>=8', 'pytest-timeout>=2.3', 'pytest-xdist>=3.5', 'pytest-cov>=5'),
            *('ruff>=0.14', 'mypy>=1.18', 'types-PyYAML', 'types-jsonschema', 'types-tqdm'),
        ],
        # What a PC (openvino) or an Arm board (ncnn) may run instead of ONNX Runtime; TensorRT comes with the Jetson.
        'engines': ['openvino>=2024.4', 'ncnn>=1.0.20240820'],
        # Ultralytics is licensed under AGPL-3.0, unlike this package: it serves to make models, and no part of the
        # robot's code imports it. Whoever installs this extra takes on its licence.
        'training': [
            *('torch>=2.6', 'torchvision>=0.21', 'ultralytics>=8.3', 'onnx>=1.17', 'onnxslim>=0.1.50'),
            *('torch-pruning>=1.5', 'tensorboard>=2.15', 'scipy>=1.11', 'timm>=1.0.9', 'safetensors>=0.4'),
        ],
    },
    entry_points={
        'console_scripts': [
            f'{name} = {PACKAGE}.cli.console:{name}'
            for name in ('kd_perception', 'detector_node', 'scene_camera', 'replay_node', 'localizer_node')
        ],
    },
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{PACKAGE}']),
        (f'share/{PACKAGE}', ['package.xml']),
        # Where `ros2 run` looks.
        (f'lib/{PACKAGE}', sorted(path.as_posix() for path in (ROOT / 'scripts').iterdir())),
        *shared('launch', 'config', 'models'),
    ],
    zip_safe=False,
)

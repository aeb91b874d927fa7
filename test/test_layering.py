"""The arrows between the packages run one way."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

ROBOT_FREE = ('rclpy', 'torch', 'ultralytics', 'vision_msgs', 'sensor_msgs', 'training')
FORBIDDEN = {
    'core': (
        *ROBOT_FREE,
        'kd_perception.engines',
        'kd_perception.evaluation',
        'kd_perception.ros',
        'kd_perception.scene',
    ),
    'engines': (*ROBOT_FREE, 'kd_perception.evaluation', 'kd_perception.ros'),
    'scene': (*ROBOT_FREE, 'kd_perception.evaluation', 'kd_perception.ros'),
    'evaluation': (*ROBOT_FREE, 'kd_perception.ros'),
    'ros': ('torch', 'ultralytics', 'training'),
}
ALLOWED = {'kd_perception/engines/torch.py': ('torch',)}
"""The reference engine is imported only when it is asked for by name."""


def imported_names(source: str) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f'{node.module}.{alias.name}' for alias in node.names)}
    return names


@pytest.mark.parametrize('package', FORBIDDEN)
def test_no_module_imports_against_the_arrows(repository, package):
    modules = sorted((repository / 'kd_perception' / package).rglob('*.py'))
    assert modules
    for module in modules:
        names = imported_names(module.read_text())
        allowed = ALLOWED.get(str(module.relative_to(repository)), ())
        forbidden = [name for name in FORBIDDEN[package] if name not in allowed]
        wrong = {n for n in names for f in forbidden if n == f or n.startswith(f + '.')}
        assert not wrong, f'{module.relative_to(repository)} imports {wrong}'


def test_core_and_engines_load_neither_ros_nor_torch(repository):
    modules = 'kd_perception.core.detector', 'kd_perception.engines', 'kd_perception.engines.onnxruntime'
    code = (
        f'import sys, {", ".join(modules)}\nprint([m for m in ("rclpy", "torch", "ultralytics") if m in sys.modules])'
    )
    result = subprocess.run([sys.executable, '-c', code], cwd=repository, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == '[]'

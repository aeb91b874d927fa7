"""The plan of the package as data: which room may import which, and which libraries. Arrows run down only."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys

import pytest

BASE = ('errors', 'text_table', 'whole_file', 'plain_yaml', 'regular_file', 'machine')
"""What every room may use."""

ROOMS: dict[str, tuple[str, ...]] = {
    'machine': (),
    'detection': (),
    'tracking': ('detection',),
    'localization': ('detection',),
    'scene': ('detection',),
    'bundles': ('detection',),
    'engines': ('bundles', 'detection'),
    'selection': ('engines', 'bundles', 'scene', 'detection'),
    'runtime': ('tracking', 'selection', 'engines', 'bundles', 'detection'),
    'bags': ('scene', 'detection'),
    'metrics': ('bags', 'runtime', 'tracking', 'detection'),
    'evaluation': ('metrics', 'bags', 'runtime', 'tracking', 'selection', 'engines', 'bundles', 'detection'),
    'report': ('evaluation', 'metrics', 'bags', 'tracking', 'bundles', 'detection'),
    'ros': ('bags', 'runtime', 'localization', 'tracking', 'selection', 'engines', 'bundles', 'scene', 'detection'),
    'benchmark': ('selection', 'engines', 'bundles', 'scene', 'detection'),
    'doctor': ('ros', 'benchmark', 'selection', 'engines', 'bundles', 'scene', 'detection'),
    'demo': ('ros', 'report', 'tracking', 'evaluation', 'metrics', 'bags', 'bundles', 'scene', 'detection'),
    'cli': (
        'tracking',
        *('demo', 'doctor', 'benchmark', 'ros', 'report', 'evaluation', 'metrics', 'bags', 'runtime', 'selection'),
        *('engines', 'bundles', 'scene', 'detection'),
    ),
}
"""Room → the rooms that it may import, besides itself and `BASE`. A room stands below those that import it."""

TRAINING_BASE = ('errors', 'schema', 'ranges', 'steps', 'seeding', 'commands', 'torchvision_nms')
"""What every room of the training may use."""

TRAINING: dict[str, tuple[str, ...]] = {
    'data': (),
    'models': ('data',),
    'measure': ('data',),
    'export': ('measure', 'models', 'data'),
    'prune': ('export', 'models', 'data'),
    'quantize': ('export', 'measure', 'models', 'data'),
    'distill': ('models', 'data'),
    'fit': ('distill', 'prune', 'export', 'models', 'data'),
    'run': ('fit', 'distill', 'quantize', 'prune', 'export', 'measure', 'models', 'data'),
    'study': ('run', 'fit', 'distill', 'quantize', 'prune', 'export', 'measure', 'models', 'data'),
}
"""The same of the training, imports within functions too; `measure` is a single file."""


ROS = (
    'rclpy',
    'tf2_msgs',
    'geometry_msgs',
    'vision_msgs',
    'visualization_msgs',
    'foxglove_msgs',
    'sensor_msgs',
    'std_msgs',
    'diagnostic_msgs',
    'builtin_interfaces',
)
WITH_ROS = ('ros', 'demo', 'doctor')
NOWHERE = ('torch', 'ultralytics', 'training')


def imported_names(source: str, *, types: bool = True) -> set[str]:
    """What a module imports anywhere; what is for type checkers alone only if `types`."""
    names: set[str] = set()
    tree = ast.parse(source)
    checking = [
        node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == 'TYPE_CHECKING'
    ]
    left_out = set() if types else {part for node in checking for part in ast.walk(node)}
    for node in ast.walk(tree):
        if node in left_out:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f'{node.module}.{alias.name}' for alias in node.names)}
    return names


@pytest.fixture(scope='module')
def imports(repository):
    """Room → file → imported names."""
    package = repository / 'kd_perception'
    return {
        room: {
            file.relative_to(package).as_posix(): imported_names(file.read_text())
            for file in (package / room).rglob('*.py')
        }
        for room in ROOMS
    }


def test_every_folder_of_the_package_is_a_room_of_the_plan(repository):
    folders = {path.parent.name for path in (repository / 'kd_perception').glob('*/__init__.py')}
    assert folders == set(ROOMS)


def test_the_plan_has_no_circle():
    for number, (room, below) in enumerate(ROOMS.items()):
        assert set(below) <= set(list(ROOMS)[:number]), f'{room} imports what stands above it'


@pytest.mark.parametrize('room', ROOMS)
def test_no_module_imports_against_the_arrows(imports, room):
    assert imports[room]
    for file, names in imports[room].items():
        rooms = {name.split('.')[1] for name in names if name.startswith('kd_perception.')} & {*ROOMS, *BASE}
        wrong = rooms - {room, *BASE, *ROOMS[room]}
        assert not wrong, f'kd_perception/{file} imports {sorted(wrong)}'


@pytest.mark.parametrize('room', ROOMS)
def test_no_module_imports_a_library_that_its_room_may_not(imports, room):
    forbidden = (*NOWHERE, *(() if room in WITH_ROS else ROS))
    for file, names in imports[room].items():
        wrong = {name for name in names if name.split('.')[0] in forbidden}
        assert not wrong, f'{file} imports {wrong}'


def test_every_folder_and_file_of_the_training_is_in_its_plan(repository):
    top = repository / 'training'
    found = {path.parent.name for path in top.glob('*/__init__.py')}
    found |= {path.stem for path in top.glob('*.py')} - {'__init__', '__main__'}
    assert found == {*TRAINING, *TRAINING_BASE}
    for number, below in enumerate(TRAINING.values()):
        assert set(below) <= set(list(TRAINING)[:number])


@pytest.mark.parametrize('room', [*TRAINING, *TRAINING_BASE])
def test_no_module_of_the_training_imports_against_the_arrows(repository, room):
    top = repository / 'training'
    files = [*(top / room).rglob('*.py'), *top.glob(f'{room}.py')]
    assert files
    may = {room, *TRAINING_BASE, *TRAINING.get(room, ())}
    for file in files:
        names = imported_names(file.read_text(), types=False)
        wrong = {name.split('.')[1] for name in names if name.startswith('training.')} & {*TRAINING} - may
        assert not wrong, f'{file.relative_to(repository)} imports {sorted(wrong)}'


def test_detection_and_engines_load_neither_ros_nor_torch(repository):
    modules = 'kd_perception.detection.detector', 'kd_perception.runtime.model', 'kd_perception.engines.onnxruntime'
    code = (
        f'import sys, {", ".join(modules)}\nprint([m for m in ("rclpy", "torch", "ultralytics") if m in sys.modules])'
    )
    result = subprocess.run([sys.executable, '-c', code], cwd=repository, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == '[]'


def module_imports(root, package):
    """Module → the modules of the package that it imports when it is itself imported; imports inside functions come later."""
    files = {
        file.relative_to(root).with_suffix('').as_posix().replace('/', '.'): file
        for file in (root / package).rglob('*.py')
    }
    modules = {name.removesuffix('.__init__'): file for name, file in files.items()}
    graph = {}
    for name, file in modules.items():
        tree = ast.parse(file.read_text())
        names = set()
        for node in imports_at_the_top(tree):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif node.module:
                below = {f'{node.module}.{alias.name}' for alias in node.names}
                names |= (below & modules.keys()) or {node.module}
        graph[name] = names & modules.keys() - {name}
    return graph


def imports_at_the_top(tree):
    """Import statements outside of functions and of `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node
        elif isinstance(node, (ast.Try, ast.ClassDef)):
            yield from imports_at_the_top(node)


@pytest.mark.parametrize('package', ['kd_perception', 'training'])
def test_no_modules_import_each_other_in_a_circle(repository, package):
    graph = module_imports(repository, package)
    assert len(graph) > 50
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(' → '.join(error.args[1]))


MOST_LINES = 400


def test_no_file_is_longer_than_a_reader_holds_in_mind(repository):
    long = {
        str(file.relative_to(repository)): lines
        for package in ('kd_perception', 'training')
        for file in (repository / package).rglob('*.py')
        if (lines := len(file.read_text().splitlines())) > MOST_LINES
    }
    assert not long

"""The launch file: plain enough to be safe everywhere, and loaded for real where ROS 2's launch is installed."""

import ast
import importlib.util
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
LAUNCH_FILES = sorted((REPOSITORY / 'launch').glob('*.launch.py'))
ALLOWED = {'launch', 'launch_ros', 'ament_index_python', 'os', 'pathlib'}
ARGUMENTS = (
    *('params_file', 'profile', 'model', 'engine', 'precision', 'tiles', 'degradation', 'image', 'cameras'),
    *('image_transport', 'namespace', 'use_sim_time', 'autostart', 'log_level', 'rviz'),
)


def calls(tree: ast.AST, name: str) -> list[ast.Call]:
    """The calls of a function of that name."""
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name
    ]


@pytest.fixture(params=LAUNCH_FILES, ids=lambda path: path.name)
def tree(request: pytest.FixtureRequest) -> ast.Module:
    return ast.parse(request.param.read_text(encoding='utf-8'))


def test_imports_nothing_but_launch(tree: ast.Module) -> None:
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or '' for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split('.')[0] for name in imported} <= ALLOWED


def test_evaluates_and_runs_nothing(tree: ast.Module) -> None:
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    forbidden = {
        'eval',
        'exec',
        'compile',
        '__import__',
        'system',
        'popen',
        'PythonExpression',
        'Command',
        'ExecuteProcess',
    }
    assert not names & forbidden


def test_every_argument_is_described(tree: ast.Module) -> None:
    for argument in calls(tree, 'DeclareLaunchArgument'):
        keywords = {keyword.arg: keyword.value for keyword in argument.keywords}
        assert 'default_value' in keywords
        assert ast.literal_eval(keywords['description']).endswith('.')


def test_detector_launch_takes_the_documented_arguments() -> None:
    tree = ast.parse((REPOSITORY / 'launch' / 'detector.launch.py').read_text(encoding='utf-8'))
    names = tuple(ast.literal_eval(call.args[0]) for call in calls(tree, 'DeclareLaunchArgument'))
    assert names == ARGUMENTS


@pytest.mark.skipif(
    importlib.util.find_spec('launch_ros') is None, reason='launch_ros comes with ROS 2 and is not on PyPI'
)
class TestLoaded:
    """What the launch file makes of its arguments."""

    @staticmethod
    def node(**arguments: str):
        """The detector's action, expanded with these launch arguments."""
        from launch import LaunchContext
        from launch.actions import DeclareLaunchArgument, OpaqueFunction
        from launch.launch_description_sources import get_launch_description_from_python_launch_file

        description = get_launch_description_from_python_launch_file(str(REPOSITORY / 'launch' / 'detector.launch.py'))
        context = LaunchContext()
        context.launch_configurations.update(arguments)
        for entity in description.entities:
            if isinstance(entity, DeclareLaunchArgument):
                entity.execute(context)
        (opaque,) = (entity for entity in description.entities if isinstance(entity, OpaqueFunction))
        (node,) = opaque.execute(context)
        return node

    def test_starts_the_installed_detector(self) -> None:
        node = self.node(namespace='front')
        assert (node.node_package, node.node_executable) == ('kd_perception', 'detector_node')

    @pytest.mark.parametrize('chosen', ['', '/etc/my_fastdds.xml'])
    def test_shared_memory_profile_gives_way_to_the_users(self, monkeypatch: pytest.MonkeyPatch, chosen: str) -> None:
        monkeypatch.delenv('ROS_DISTRO', raising=False)
        monkeypatch.setenv('FASTDDS_DEFAULT_PROFILES_FILE', chosen)
        assert bool(self.node().process_description.additional_env) == (not chosen)

    def test_unknown_profile_is_refused_with_the_list(self) -> None:
        with pytest.raises(RuntimeError, match='raspberry_pi_5'):
            self.node(profile='raspberry_pi_3')

    @pytest.mark.parametrize(
        ('arguments', 'expected'),
        [
            ({'image': '/camera/image_raw'}, [('image', '/camera/image_raw')]),
            (
                {'image': 'image_raw', 'cameras': 'front, rear'},
                [('front/image', 'front/image_raw'), ('rear/image', 'rear/image_raw')],
            ),
        ],
    )
    def test_images_are_remapped_for_one_camera_and_for_several(
        self, arguments: dict[str, str], expected: list[tuple[str, str]]
    ) -> None:
        remappings = self.node(**arguments)._Node__remappings
        assert [tuple(''.join(part.text for part in side) for side in pair) for pair in remappings] == expected

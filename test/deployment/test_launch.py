"""The launch file: plain enough to be safe everywhere, and loaded for real where ROS 2's launch is installed."""

import ast
import contextlib
import importlib.util
import logging
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from patience import PATIENCE

REPOSITORY = Path(__file__).resolve().parents[2]
LAUNCH_FILES = sorted((REPOSITORY / 'launch').glob('*.launch.py'))
ALLOWED = {'launch', 'launch_ros', 'ament_index_python', 'difflib', 'os', 'pathlib', 'sys', 'yaml'}
ARGUMENTS = (
    *('params_file', 'profile', 'model', 'engine', 'precision', 'score_threshold', 'latency_budget_ms', 'tiles'),
    *('degradation', 'image', 'cameras', 'image_transport', 'annotated_transport', 'namespace', 'use_sim_time'),
    *('autostart', 'log_level', 'rviz'),
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
        assert ast.unparse(keywords['description']).strip('"\'').endswith('.')


def test_detector_launch_takes_the_documented_arguments() -> None:
    tree = ast.parse((REPOSITORY / 'launch' / 'detector.launch.py').read_text(encoding='utf-8'))
    names = tuple(ast.literal_eval(call.args[0]) for call in calls(tree, 'DeclareLaunchArgument'))
    assert names == ARGUMENTS


def test_every_argument_stands_in_the_documentation() -> None:
    text = (REPOSITORY / 'docs' / 'installation.md').read_text(encoding='utf-8')
    assert [name for name in ARGUMENTS if not re.search(rf'\b{name}\b', text)] == []


def test_launch_files_leave_fast_dds_to_the_nodes(tree: ast.Module) -> None:
    assert 'FASTDDS' not in ast.unparse(tree)
    assert 'FASTRTPS' not in ast.unparse(tree)


@pytest.mark.skipif(
    importlib.util.find_spec('launch_ros') is None, reason='launch_ros comes with ROS 2 and is not on PyPI'
)
class TestLoaded:
    """What the launch file makes of its arguments."""

    @pytest.fixture
    def rviz2(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A package of that name in the index of what is installed."""
        index = tmp_path / 'share' / 'ament_index' / 'resource_index' / 'packages'
        index.mkdir(parents=True)
        (index / 'rviz2').touch()
        monkeypatch.setenv('AMENT_PREFIX_PATH', f'{tmp_path}:{os.environ["AMENT_PREFIX_PATH"]}')

    @staticmethod
    def actions(context=None, file: str = 'detector.launch.py', **arguments: str):
        """The actions of its last function, expanded with these launch arguments."""
        from launch import LaunchContext
        from launch.actions import DeclareLaunchArgument
        from launch.launch_description_sources import get_launch_description_from_python_launch_file

        description = get_launch_description_from_python_launch_file(str(REPOSITORY / 'launch' / file))
        context = context or LaunchContext()
        context.launch_configurations.update(arguments)
        for entity in description.entities:
            if isinstance(entity, DeclareLaunchArgument):
                entity.execute(context)
        *_, check, start = description.entities
        check.execute(context)
        return start.execute(context)

    @staticmethod
    def parameters(node) -> list[Any]:
        """The parameter files, and last the parameters that go over them."""
        from launch import LaunchContext
        from launch_ros.utilities import evaluate_parameters

        return evaluate_parameters(LaunchContext(), node._Node__parameters)

    def test_starts_the_installed_detector(self) -> None:
        (node,) = self.actions(namespace='front')
        assert (node.node_package, node.node_executable) == ('kd_perception', 'detector_node')

    @pytest.mark.parametrize(
        ('arguments', 'says'),
        [
            ({'profile': 'raspberry_pi5'}, 'did you mean raspberry_pi_5.*drone_nadir'),
            ({'profile': 'raspberry_pi_5,toaster'}, 'there is no profile toaster; there are'),
            ({'params_file': '/nowhere.yaml'}, '/nowhere.yaml is not a file'),
            ({'score_threshold': 'high'}, 'score_threshold:=high is not a number'),
            ({'latency_budget_ms': '1O'}, 'latency_budget_ms:=1O is not a number'),
            ({'rviz': 'true'}, 'rviz:=true needs rviz2: sudo apt install ros-'),
            ({'degradation': 'on'}, 'not valid'),
            ({'log_level': 'loud'}, 'not valid'),
        ],
    )
    def test_what_cannot_be_is_refused_before_anything_runs(self, arguments: dict[str, str], says: str) -> None:
        with pytest.raises(RuntimeError, match=says):
            self.actions(**arguments)

    @pytest.mark.parametrize(
        ('arguments', 'says'),
        [
            ({}, 'no bag given'),
            ({'bag': 'x', 'rate': 'fast'}, 'rate:=fast is not'),
            ({'bag': 'x', 'profile': 'y'}, 'no profile y'),
        ],
    )
    def test_a_replay_is_refused_before_anything_runs(self, arguments: dict[str, str], says: str) -> None:
        with pytest.raises(RuntimeError, match=says):
            self.actions(file='replay.launch.py', **arguments)

    @pytest.mark.parametrize(
        ('arguments', 'says'),
        [
            ({'params_file': '/nowhere.yaml'}, '/nowhere.yaml is not a file'),
            ({'mode': 'sonar'}, 'not valid'),
            ({'rviz': 'true'}, 'rviz:=true needs the frame'),
            ({'rviz': 'true', 'target_frame': 'map'}, 'rviz:=true needs rviz2: sudo apt install ros-'),
        ],
    )
    def test_a_localizer_is_refused_before_anything_runs(self, arguments: dict[str, str], says: str) -> None:
        with pytest.raises(RuntimeError, match=says):
            self.actions(file='localizer.launch.py', **arguments)

    def test_the_localizers_parameter_file_holds_where_no_argument_is_given(self, tmp_path: Path) -> None:
        file = tmp_path / 'mine.yaml'
        file.write_text('localizer:\n  ros__parameters: {mode: ground, target_frame: odom, max_range: 80.0}\n')
        (node,) = self.actions(file='localizer.launch.py', params_file=str(file), target_frame='map')
        first, last = self.parameters(node)
        assert first == file
        assert dict(last) == {'target_frame': 'map', 'use_sim_time': False}

    def test_rviz_shows_positions_in_the_target_frame_and_the_namespace(self, rviz2: None) -> None:
        import launch.logging

        _, rviz = self.actions(file='localizer.launch.py', rviz='true', target_frame='odom', namespace='uav')
        assert (rviz.node_package, rviz.node_executable) == ('rviz2', 'rviz2')
        document = yaml.safe_load((Path(launch.logging.launch_config.log_dir) / 'localizer.rviz').read_text())
        manager = document['Visualization Manager']
        assert manager['Global Options']['Fixed Frame'] == 'odom'
        topics = [display['Topic']['Value'] for display in manager['Displays'] if 'Topic' in display]
        assert topics == ['/uav/image_annotated', '/uav/detections_3d/markers']
        assert [display['Reference Frame'] for display in manager['Displays'] if 'Reference Frame' in display] == [
            'odom'
        ]

    def test_profiles_are_laid_over_each_other_in_order(self) -> None:
        (node,) = self.actions(profile='raspberry_pi_5, drone_nadir')
        assert [file.stem for file in self.parameters(node)[:-1]] == ['detector', 'raspberry_pi_5', 'drone_nadir']

    def test_numbers_are_doubles_and_words_stay_words(self) -> None:
        (node,) = self.actions(
            score_threshold='1', latency_budget_ms='50', tiles='off', annotated_transport='compressed'
        )
        expected = {
            'score_threshold': 1.0,
            'latency_budget_ms': 50.0,
            'tiles': 'off',
            'annotated_transport': 'compressed',
        }
        values = self.parameters(node)[-1]
        assert {name: values[name] for name in expected} == expected
        assert type(values['score_threshold']) is float

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
        (node,) = self.actions(**arguments)
        remappings = node._Node__remappings
        assert [tuple(''.join(part.text for part in side) for side in pair) for pair in remappings] == expected

    @pytest.mark.parametrize(
        ('pushed', 'namespace', 'logger'),
        [
            (None, '', 'detector'),
            (None, 'front', 'front.detector'),
            (None, '/a/b', 'a.b.detector'),
            ('robot', 'front', 'robot.front.detector'),
            ('robot', '', 'robot.detector'),
        ],
    )
    def test_the_log_level_is_that_of_the_nodes_own_logger(
        self, pushed: str | None, namespace: str, logger: str
    ) -> None:
        from launch import LaunchContext

        context = LaunchContext()
        if pushed:
            context.launch_configurations['ros_namespace'] = pushed
        (node,) = self.actions(context, namespace=namespace, log_level='debug')
        assert node._Node__ros_arguments == ['--log-level', f'{logger}:=debug']

    @pytest.mark.parametrize(
        ('arguments', 'transport', 'topics'),
        [
            ({'profile': 'raspberry_pi_5'}, 'raw', ['/image_annotated']),
            (
                {'annotated_transport': 'compressed', 'namespace': 'uav'},
                'compressed',
                ['/uav/image_annotated/compressed'],
            ),
            ({'cameras': 'front,rear'}, 'raw', ['/front/image_annotated', '/rear/image_annotated']),
        ],
    )
    def test_rviz_shows_every_camera_as_the_node_publishes_it(
        self, rviz2: None, arguments: dict[str, str], transport: str, topics: list[str]
    ) -> None:
        import launch.logging

        node, rviz = self.actions(rviz='true', **arguments)
        assert self.parameters(node)[-1]['annotated_transport'] == transport
        assert (rviz.node_package, rviz.node_executable) == ('rviz2', 'rviz2')
        document = yaml.safe_load((Path(launch.logging.launch_config.log_dir) / 'detector.rviz').read_text())
        displays = document['Visualization Manager']['Displays']
        assert [display['Topic']['Value'] for display in displays] == topics

    @pytest.mark.parametrize('text', ['- a list', 'detector: 3', 'detector: {speed: 1}', 'a: [', '\x00', '7: 8'])
    def test_what_is_no_file_of_parameters_is_refused_in_one_line(self, tmp_path: Path, text: str) -> None:
        (tmp_path / 'mine.yaml').write_text(text)
        with pytest.raises(RuntimeError, match='mine.yaml is not a YAML file of node parameters') as refusal:
            self.actions(params_file=str(tmp_path / 'mine.yaml'))
        assert '\n' not in str(refusal.value)

    def test_cameras_of_the_parameter_files_are_known(self, tmp_path: Path) -> None:
        (tmp_path / 'mine.yaml').write_text('/**:\n  ros__parameters:\n    cameras: [left, right]\n')
        (node,) = self.actions(params_file=str(tmp_path / 'mine.yaml'), image='image_raw')
        remappings = [tuple(''.join(part.text for part in side) for side in pair) for pair in node._Node__remappings]
        assert remappings == [('left/image', 'left/image_raw'), ('right/image', 'right/image_raw')]

    @pytest.mark.parametrize('file', ['detector.launch.py', 'replay.launch.py'])
    @pytest.mark.parametrize(
        ('word', 'says'),
        [('imge:=x', 'no argument imge; did you mean image?'), ('speed:=3', 'no argument speed; --show-args')],
    )
    def test_an_argument_that_does_not_exist_is_refused(
        self, monkeypatch: pytest.MonkeyPatch, file: str, word: str, says: str
    ) -> None:
        from launch import LaunchContext

        monkeypatch.setattr('sys.argv', ['ros2', 'launch', 'kd_perception', file, word])
        name, _, value = word.partition(':=')
        with pytest.raises(RuntimeError, match=says):
            self.actions(LaunchContext(argv=[word]), file, bag='x', **{name: value})

    def test_arguments_of_a_launch_file_that_includes_it_are_its_own(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        from launch import LaunchContext

        logging.getLogger('detector.launch.py').addHandler(caplog.handler)  # launch's loggers tell no others
        monkeypatch.setattr('sys.argv', ['ros2', 'launch', 'my_robot', 'detector.launch.py', 'robot:=7'])
        (_,) = self.actions(LaunchContext(argv=['robot:=7', 'imag:=x']), robot='7', imag='x')
        assert set(caplog.messages) == {'there is no argument imag; did you mean image?'}


@pytest.mark.skipif(shutil.which('ros2') is None, reason='the ros2 command comes with ROS 2')
class TestRun:
    """`ros2 launch` itself, with what is installed."""

    @staticmethod
    def start(tmp_path: Path, *words: str) -> subprocess.Popen[str]:
        """In a process group of its own, as a terminal's job; its output goes to a file."""
        with (tmp_path / 'log').open('w') as log:
            return subprocess.Popen(
                ['ros2', 'launch', 'kd_perception', *words], stdout=log, stderr=subprocess.STDOUT, text=True,
                cwd=tmp_path, start_new_session=True,
            )  # fmt: skip

    @staticmethod
    def members(group: int) -> list[int]:
        """The processes of a group that still run."""
        stats = (path.read_text().rpartition(')')[2].split() for path in Path('/proc').glob('[0-9]*/stat'))
        return [int(fields[2]) for fields in stats if int(fields[2]) == group and fields[0] != 'Z']

    @pytest.mark.parametrize('words', [('rviz:=true',), ('imge:=/x',), ('profile:=toaster',)])
    def test_nothing_survives_a_failed_launch(self, tmp_path: Path, words: tuple[str, ...]) -> None:
        launched = self.start(tmp_path, 'detector.launch.py', *words)
        assert launched.wait(timeout=PATIENCE) == 1
        assert not self.members(launched.pid)
        assert 'process started' not in (tmp_path / 'log').read_text()

    @pytest.mark.parametrize('signals', [1, 2])
    def test_ctrl_c_ends_the_node_well_also_when_it_comes_twice(self, tmp_path: Path, signals: int) -> None:
        launched = self.start(tmp_path, 'detector.launch.py', 'namespace:=a/b', 'log_level:=debug')
        try:
            deadline = time.monotonic() + PATIENCE
            while 'activate: done' not in (tmp_path / 'log').read_text():
                assert time.monotonic() < deadline, (tmp_path / 'log').read_text()
                time.sleep(0.05)
            for _ in range(signals):
                os.killpg(launched.pid, signal.SIGINT)
            launched.wait(timeout=PATIENCE)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(launched.pid, signal.SIGKILL)
        said = (tmp_path / 'log').read_text()
        assert 'process has finished cleanly' in said
        assert '[a.b.detector]' in said
        assert 'Traceback' not in said
        assert 'has died' not in said

"""Starts the detector node, activated unless autostart is false, and RViz with its annotated images on request."""

import difflib
import os
import sys
from pathlib import Path

import launch.logging
import yaml
from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch import Action, LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node
from launch_ros.utilities import prefix_namespace

SHARE = Path(__file__).resolve().parents[1]
CONFIG = SHARE / 'config'
PROFILES = sorted(path.stem for path in (CONFIG / 'profiles').glob('*.yaml'))
TEXTS = ('model', 'engine', 'precision', 'tiles', 'degradation', 'image_transport', 'annotated_transport')
NUMBERS = ('score_threshold', 'latency_budget_ms')
SWITCHES = ('use_sim_time', 'autostart')

ARGUMENTS = [
    DeclareLaunchArgument(
        'params_file', default_value=str(CONFIG / 'detector.yaml'), description='YAML file of node parameters.'
    ),
    DeclareLaunchArgument(
        'profile',
        default_value='',
        description=f'Boards and stacks whose parameters (config/profiles) are laid over params_file, in this order, '
        f'such as raspberry_pi_5,drone_nadir. There are {", ".join(PROFILES)}.',
    ),
    DeclareLaunchArgument(
        'model', default_value='', description='Model bundle, a folder or a name; empty keeps the parameter files.'
    ),
    DeclareLaunchArgument(
        'engine', default_value='', description='Inference engine, or auto; empty keeps the one in the parameter files.'
    ),
    DeclareLaunchArgument(
        'precision', default_value='', description='fp32, int8, … or auto; empty keeps the one in the parameter files.'
    ),
    DeclareLaunchArgument(
        'score_threshold',
        default_value='',
        description="Lowest score that is published, 0 to 1, or -1 for the bundle's; empty keeps the parameter files.",
    ),
    DeclareLaunchArgument(
        'latency_budget_ms',
        default_value='',
        description='Age in ms over which a frame counts as late; empty keeps the parameter files.',
    ),
    DeclareLaunchArgument(
        'tiles',
        default_value='',
        description='Tiles for high frames: off, auto, 2x2, 2x2+whole, …; empty keeps the parameter files.',
    ),
    DeclareLaunchArgument(
        'degradation',
        default_value='',
        choices=['', 'off', 'step_down', 'skip_frames'],
        description='What to do when frames stay over the latency budget; empty keeps the parameter files.',
    ),
    DeclareLaunchArgument(
        'image',
        default_value='image',
        description='Topic of the camera images; with several cameras its name inside their namespaces.',
    ),
    DeclareLaunchArgument(
        'cameras',
        default_value='',
        description='Namespaces of several cameras that share the engine, such as front,rear; empty keeps the parameter files.',
    ),
    DeclareLaunchArgument(
        'image_transport',
        default_value='',
        choices=['', 'auto', 'raw', 'compressed'],
        description='raw subscribes to the image topic, compressed to <image>/compressed, auto takes what is published; '
        'empty keeps the parameter files.',
    ),
    DeclareLaunchArgument(
        'annotated_transport',
        default_value='',
        choices=['', 'raw', 'compressed'],
        description='raw publishes image_annotated, compressed image_annotated/compressed; empty keeps the parameter files, '
        'with rviz it is raw.',
    ),
    DeclareLaunchArgument('namespace', default_value='', description='Namespace of the node and its topics.'),
    DeclareLaunchArgument(
        'use_sim_time', default_value='false', choices=['true', 'false'], description='Take the time from /clock.'
    ),
    DeclareLaunchArgument(
        'autostart',
        default_value='true',
        choices=['true', 'false'],
        description='Configure and activate the node at start; false leaves that to a lifecycle manager.',
    ),
    DeclareLaunchArgument(
        'log_level',
        default_value='info',
        choices=['debug', 'info', 'warn', 'error', 'fatal'],
        description="The node's log level.",
    ),
    DeclareLaunchArgument(
        'rviz', default_value='false', choices=['true', 'false'], description='Show the annotated images in RViz.'
    ),
]


def check_names(context: LaunchContext, declared: list[DeclareLaunchArgument], file: str) -> None:
    """Refuse arguments of `ros2 launch` that do not exist: launch itself says nothing, and the default stays in force.

    Included in another launch file, whose arguments are in the context as well, a likely misspelling is a warning.

    Raises:
        RuntimeError: an argument does not exist; names the nearest.
    """
    names = {argument.name for argument in declared}
    foreign = context.launch_configurations.keys() - names - {'launch-prefix', 'launch-prefix-filter'}
    typed = {word.partition(':=')[0] for word in context.argv} if is_started(Path(file)) else set()
    for name in sorted(foreign):
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.6 if name in typed else 0.75)
        says = f'there is no argument {name}; ' + (f'did you mean {near[0]}?' if near else '--show-args lists all')
        if name in typed:
            raise RuntimeError(says)
        if near:
            launch.logging.get_logger(Path(file).name).warning(says)


def is_started(file: Path) -> bool:
    """Whether the command line names this launch file, by package or path, and not one that includes it."""
    by_package = ('kd_perception', file.name) in zip(sys.argv, sys.argv[1:], strict=False)
    return by_package or any(Path(word).is_file() and file.samefile(word) for word in sys.argv)


def value_of(context: LaunchContext, name: str) -> str:
    """An argument as it was given, or its default."""
    return LaunchConfiguration(name).perform(context).strip()


def number_of(context: LaunchContext, name: str) -> float:
    """An argument that is a number. Raises RuntimeError where it is none."""
    text = value_of(context, name)
    try:
        return float(text)
    except ValueError as error:
        raise RuntimeError(f'{name}:={text} is not a number') from error


def list_of(context: LaunchContext, name: str) -> list[str]:
    """An argument of several words with commas between them."""
    return [word.strip() for word in value_of(context, name).split(',') if word.strip()]


def parameter_files(context: LaunchContext) -> list[Path]:
    """params_file and the profiles, each laid over those before it. Raises RuntimeError where one does not exist."""
    files = [Path(value_of(context, 'params_file')).expanduser()]
    for profile in list_of(context, 'profile'):
        if profile not in PROFILES:
            near = difflib.get_close_matches(profile, PROFILES, n=1)
            advice = f' (did you mean {near[0]}?)' if near else ''
            raise RuntimeError(f'there is no profile {profile}{advice}; there are {", ".join(PROFILES)}')
        files.append(CONFIG / 'profiles' / f'{profile}.yaml')
    if not files[0].is_file():
        raise RuntimeError(f'params_file:={files[0]} is not a file')
    return files


def parameter_in(files: list[Path], node: str, parameter: str, default: object) -> object:
    """What parameter files say for a node or for all nodes, the last first. Raises RuntimeError where one is not YAML."""
    for file in files:
        try:
            nodes = yaml.safe_load(file.read_text(encoding='utf-8')) or {}
            for name, section in nodes.items():
                if name.rpartition('/')[2] in ('**', node):
                    default = section['ros__parameters'].get(parameter, default)
        except (yaml.YAMLError, UnicodeDecodeError, AttributeError, KeyError, TypeError) as error:
            raise RuntimeError(
                f'{file} is not a YAML file of node parameters: {" ".join(str(error).split())}'
            ) from error
    return default


def parameters(context: LaunchContext) -> dict[str, object]:
    """Those that were given as arguments, which go over the files."""
    texts = {name: value_of(context, name) for name in TEXTS if value_of(context, name)}
    numbers = {name: number_of(context, name) for name in NUMBERS if value_of(context, name)}
    switches = {name: value_of(context, name) == 'true' for name in SWITCHES}
    cameras = list_of(context, 'cameras')
    return {**texts, **numbers, **switches, **({'cameras': cameras} if cameras else {})}


def namespace_of(context: LaunchContext) -> list[str]:
    """The parts of the namespace in which the nodes start, those pushed by an including launch file first."""
    path = prefix_namespace(context.launch_configurations.get('ros_namespace'), value_of(context, 'namespace'))
    return [name for name in (path or '').split('/') if name]


def camera_displays(namespace: list[str], cameras: list[str], transport: str) -> dict[str, object]:
    """config/detector.rviz with a display for each camera."""
    document = yaml.safe_load((CONFIG / 'detector.rviz').read_text(encoding='utf-8'))
    (display,) = document['Visualization Manager']['Displays']
    ending = ['image_annotated', *(['compressed'] if transport == 'compressed' else [])]
    document['Visualization Manager']['Displays'] = [
        {
            **display,
            'Name': f'Detections {camera}'.strip(),
            'Topic': {
                **display['Topic'],
                'Value': '/' + '/'.join(filter(None, [*namespace, camera, *ending])),
            },
        }
        for camera in cameras or ['']
    ]
    return document


def rviz(context: LaunchContext, document: dict[str, object], name: str) -> Node:
    """RViz with a configuration, which is written as this file into the folder of this launch's logs.

    Raises:
        RuntimeError: it is not installed.
    """
    try:
        get_package_prefix('rviz2')
    except PackageNotFoundError as error:
        distribution = os.environ.get('ROS_DISTRO', 'DISTRO')
        raise RuntimeError(f'rviz:=true needs rviz2: sudo apt install ros-{distribution}-rviz2') from error
    path = Path(launch.logging.launch_config.log_dir) / name
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding='utf-8')
    return Node(
        package='rviz2',
        executable='rviz2',
        name='rviz',
        namespace=value_of(context, 'namespace'),
        arguments=['-d', str(path)],
    )


def start(context: LaunchContext) -> list[Action]:
    """The nodes. What can fail is tried here, before the first of them runs: launch would leave it running alone.

    Raises:
        RuntimeError: an argument has a value that cannot be, or RViz is asked for and not installed.
    """
    files, values = parameter_files(context), parameters(context)
    cameras = list_of(context, 'cameras') or [*filter(None, parameter_in(files, 'detector', 'cameras', []))]
    namespace = namespace_of(context)
    shown = []
    if value_of(context, 'rviz') == 'true':
        # Whatever a profile says: the pictures stay on this machine, and raw ones need no plugin.
        values.setdefault('annotated_transport', 'raw')
        shown = [rviz(context, camera_displays(namespace, cameras, values['annotated_transport']), 'detector.rviz')]
    image, logger = value_of(context, 'image'), '.'.join([*namespace, 'detector'])
    detector = LifecycleNode(
        package='kd_perception',
        executable='detector_node',
        name='detector',
        namespace=value_of(context, 'namespace'),
        parameters=[*map(str, files), values],
        remappings=[(f'{camera}/image', f'{camera}/{image}') for camera in cameras] or [('image', image)],
        ros_arguments=['--log-level', f'{logger}:={value_of(context, "log_level")}'],
        output='screen',
        emulate_tty=True,
    )
    return [detector, *shown]


def generate_launch_description() -> LaunchDescription:
    """The arguments, their check, and the nodes."""
    check = OpaqueFunction(function=lambda context: check_names(context, ARGUMENTS, __file__))
    return LaunchDescription([*ARGUMENTS, check, OpaqueFunction(function=start)])

"""Starts the detector node, activated unless told otherwise, and RViz with its annotated image on request."""

import os
from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node

SHARE = Path(__file__).resolve().parents[1]
CONFIG = SHARE / 'config'
PROFILES = sorted(path.stem for path in (CONFIG / 'profiles').glob('*.yaml'))

ARGUMENTS = [
    DeclareLaunchArgument(
        'params_file', default_value=str(CONFIG / 'detector.yaml'), description='YAML file of node parameters.'
    ),
    DeclareLaunchArgument(
        'profile',
        default_value='',
        choices=['', *PROFILES],
        description='Board or stack whose parameters (config/profiles) are laid over params_file.',
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
        description='Namespaces of several cameras that share the engine, such as front,rear; empty is one camera.',
    ),
    DeclareLaunchArgument(
        'image_transport',
        default_value='',
        choices=['', 'raw', 'compressed'],
        description='raw subscribes to the image topic, compressed to <image>/compressed; empty keeps the files.',
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
    DeclareLaunchArgument('log_level', default_value='info', description="The node's log level, debug to fatal."),
    DeclareLaunchArgument(
        'rviz', default_value='false', choices=['true', 'false'], description='Show the annotated image in RViz.'
    ),
]


def fastdds_environment() -> dict[str, str]:
    """The shared-memory profile that large images need, unless the user has chosen one."""
    older = os.environ.get('ROS_DISTRO') in {'humble', 'iron', 'jazzy'}
    name = 'FASTRTPS_DEFAULT_PROFILES_FILE' if older else 'FASTDDS_DEFAULT_PROFILES_FILE'
    return {} if os.environ.get(name) else {name: str(CONFIG / 'fastdds_shm.xml')}


def detector(context: LaunchContext) -> list[LifecycleNode]:
    """The node, with the arguments that were given laid over the parameter files."""

    def given(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    profile = given('profile')
    files = [given('params_file'), *([str(CONFIG / 'profiles' / f'{profile}.yaml')] if profile else [])]
    named = ('model', 'engine', 'precision', 'tiles', 'degradation', 'image_transport')
    overrides = {name: given(name) for name in named if given(name)}
    cameras = [name.strip() for name in given('cameras').split(',') if name.strip()]
    remappings = [(f'{name}/image', f'{name}/{given("image")}') for name in cameras] or [('image', given('image'))]
    switches = {name: given(name) == 'true' for name in ('use_sim_time', 'autostart')}
    return [
        LifecycleNode(
            package='kd_perception',
            executable='detector_node',
            name='detector',
            namespace=given('namespace'),
            parameters=[*files, {**overrides, **switches, **({'cameras': cameras} if cameras else {})}],
            remappings=remappings,
            ros_arguments=['--log-level', f'detector:={given("log_level")}'],
            additional_env=fastdds_environment(),
            output='screen',
            emulate_tty=True,
        )
    ]


def generate_launch_description() -> LaunchDescription:
    """The arguments, the detector, and RViz where asked for."""
    return LaunchDescription(
        [
            *ARGUMENTS,
            OpaqueFunction(function=detector),
            Node(
                package='rviz2',
                executable='rviz2',
                name='rviz',
                namespace=LaunchConfiguration('namespace'),
                arguments=['-d', str(CONFIG / 'detector.rviz')],
                remappings=[('/image_annotated', 'image_annotated')],
                condition=IfCondition(LaunchConfiguration('rviz')),
            ),
        ]
    )

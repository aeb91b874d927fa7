"""Plays a bag to the detector node and ends with it; takes the arguments of detector.launch.py as well."""

import os
from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, Shutdown
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

SHARE = Path(__file__).resolve().parents[1]

ARGUMENTS = [
    DeclareLaunchArgument('bag', default_value='', description='The bag: a folder, .mcap or .db3 file.'),
    DeclareLaunchArgument(
        'topic', default_value='', description='Image topic of the bag; may be empty where it has only one.'
    ),
    DeclareLaunchArgument('rate', default_value='1.0', description='How many times faster than recorded.'),
    DeclareLaunchArgument(
        'step',
        default_value='false',
        choices=['true', 'false'],
        description='Send each image when the last one was answered by detections of the same stamp.',
    ),
    DeclareLaunchArgument(
        'timeout', default_value='5.0', description='With step: seconds to wait for an answer before going on.'
    ),
    DeclareLaunchArgument(
        'clock',
        default_value='false',
        choices=['true', 'false'],
        description="Publish the bag's time on /clock and let the detector follow it.",
    ),
    DeclareLaunchArgument(
        'restamp',
        default_value='false',
        choices=['true', 'false'],
        description='Stamp the images anew when they are sent, as a live camera would.',
    ),
    DeclareLaunchArgument(
        'loop', default_value='false', choices=['true', 'false'], description='Begin again at the end of the bag.'
    ),
    DeclareLaunchArgument(
        'wait', default_value='60.0', description='Seconds to wait for the detector before giving up.'
    ),
]
TYPES = {
    'bag': str,
    'topic': str,
    'rate': float,
    'step': bool,
    'timeout': float,
    'clock': bool,
    'restamp': bool,
    'loop': bool,
    'wait': float,
}


def fastdds_environment() -> dict[str, str]:
    """The shared-memory profile that large images need, unless the user has chosen one."""
    older = os.environ.get('ROS_DISTRO') in {'humble', 'iron', 'jazzy'}
    name = 'FASTRTPS_DEFAULT_PROFILES_FILE' if older else 'FASTDDS_DEFAULT_PROFILES_FILE'
    return {} if os.environ.get(name) else {name: str(SHARE / 'config' / 'fastdds_shm.xml')}


def generate_launch_description() -> LaunchDescription:
    """The arguments, the detector, and the player, with whose end everything ends."""
    detector = PythonLaunchDescriptionSource(str(SHARE / 'launch' / 'detector.launch.py'))
    parameters = {name: ParameterValue(LaunchConfiguration(name), value_type=kind) for name, kind in TYPES.items()}
    return LaunchDescription(
        [
            *ARGUMENTS,
            IncludeLaunchDescription(detector, launch_arguments={'use_sim_time': LaunchConfiguration('clock')}.items()),
            Node(
                package='kd_perception',
                executable='replay_node',
                name='replay',
                namespace=LaunchConfiguration('namespace'),
                parameters=[parameters],
                remappings=[('image', LaunchConfiguration('image'))],
                additional_env=fastdds_environment(),
                output='screen',
                emulate_tty=True,
                on_exit=Shutdown(reason='the replay has ended'),
            ),
        ]
    )

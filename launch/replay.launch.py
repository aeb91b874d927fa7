"""Plays a bag to the detector node and ends with it; takes the arguments of detector.launch.py as well."""

from pathlib import Path

from launch import Action, LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, Shutdown
from launch.launch_description_sources import load_python_launch_file_as_module
from launch_ros.actions import Node

detector = load_python_launch_file_as_module(str(Path(__file__).with_name('detector.launch.py')))

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
TEXTS = ('bag', 'topic')
NUMBERS = ('rate', 'timeout', 'wait')
SWITCHES = ('step', 'clock', 'restamp', 'loop')


def start(context: LaunchContext) -> list[Action]:
    """The detector and the player, with whose end everything ends. Raises RuntimeError before either runs."""
    texts = {name: detector.value_of(context, name) for name in TEXTS}
    numbers = {name: detector.number_of(context, name) for name in NUMBERS}
    switches = {name: detector.value_of(context, name) == 'true' for name in SWITCHES}
    if not texts['bag']:
        raise RuntimeError('no bag given: bag:=PATH, a folder, .mcap or .db3 file')
    if switches['clock']:
        context.launch_configurations['use_sim_time'] = 'true'
    player = Node(
        package='kd_perception',
        executable='replay_node',
        name='replay',
        namespace=detector.value_of(context, 'namespace'),
        parameters=[{**texts, **numbers, **switches}],
        remappings=[('image', detector.value_of(context, 'image'))],
        output='screen',
        emulate_tty=True,
        on_exit=Shutdown(reason='the replay has ended'),
    )
    return [*detector.start(context), player]


def generate_launch_description() -> LaunchDescription:
    """The arguments of both, their check, and the nodes."""
    declared = [*ARGUMENTS, *detector.ARGUMENTS]
    check = OpaqueFunction(function=lambda context: detector.check_names(context, declared, __file__))
    return LaunchDescription([*declared, check, OpaqueFunction(function=start)])

"""Starts the localizer node beside a detector that runs already."""

from pathlib import Path

from launch import Action, LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.launch_description_sources import load_python_launch_file_as_module
from launch_ros.actions import Node

detector = load_python_launch_file_as_module(str(Path(__file__).with_name('detector.launch.py')))

ARGUMENTS = [
    DeclareLaunchArgument(
        'mode', default_value='depth', choices=['depth', 'ground'], description='Where the distance comes from.'
    ),
    DeclareLaunchArgument(
        'target_frame', default_value='', description="Frame of the positions; empty: the camera's own (depth only)."
    ),
    DeclareLaunchArgument(
        'params_file',
        default_value='',
        description='YAML file of more node parameters; mode and target_frame go over it.',
    ),
    DeclareLaunchArgument('detections', default_value='detections', description='Topic of the Detection2DArray.'),
    DeclareLaunchArgument('depth', default_value='depth', description='Topic of the depth image.'),
    DeclareLaunchArgument('camera_info', default_value='camera_info', description='Topic of the CameraInfo.'),
    DeclareLaunchArgument('namespace', default_value='', description='Namespace of the node.'),
    DeclareLaunchArgument(
        'use_sim_time', default_value='false', choices=['true', 'false'], description='Follow /clock.'
    ),
]
TOPICS = ('detections', 'depth', 'camera_info')


def start(context: LaunchContext) -> list[Action]:
    """The node. Raises RuntimeError where params_file does not exist."""
    file = detector.value_of(context, 'params_file')
    if file and not Path(file).expanduser().is_file():
        raise RuntimeError(f'params_file:={file} does not exist')
    values = {name: detector.value_of(context, name) for name in ('mode', 'target_frame')}
    values['use_sim_time'] = detector.value_of(context, 'use_sim_time') == 'true'
    node = Node(
        package='kd_perception',
        executable='localizer_node',
        name='localizer',
        namespace=detector.value_of(context, 'namespace'),
        parameters=[*([str(Path(file).expanduser())] if file else []), values],
        remappings=[(name, detector.value_of(context, name)) for name in TOPICS],
        output='screen',
        emulate_tty=True,
    )
    return [node]


def generate_launch_description() -> LaunchDescription:
    """The arguments, their check, and the node."""
    check = OpaqueFunction(function=lambda context: detector.check_names(context, ARGUMENTS, __file__))
    return LaunchDescription([*ARGUMENTS, check, OpaqueFunction(function=start)])

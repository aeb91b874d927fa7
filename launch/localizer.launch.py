"""Starts the localizer node beside a detector that runs already, and RViz with its positions on request."""

from pathlib import Path

import yaml
from launch import Action, LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.launch_description_sources import load_python_launch_file_as_module
from launch_ros.actions import Node

detector = load_python_launch_file_as_module(str(Path(__file__).with_name('detector.launch.py')))

ARGUMENTS = [
    DeclareLaunchArgument(
        'mode',
        default_value='',
        choices=['', 'depth', 'ground'],
        description='Where the distance comes from; empty keeps params_file, without it depth.',
    ),
    DeclareLaunchArgument(
        'target_frame',
        default_value='',
        description="Frame of the positions; empty keeps params_file, without it the camera's own (depth only).",
    ),
    DeclareLaunchArgument('params_file', default_value='', description='YAML file of node parameters.'),
    DeclareLaunchArgument('detections', default_value='detections', description='Topic of the Detection2DArray.'),
    DeclareLaunchArgument('depth', default_value='depth', description='Topic of the depth image.'),
    DeclareLaunchArgument('camera_info', default_value='camera_info', description='Topic of the CameraInfo.'),
    DeclareLaunchArgument('namespace', default_value='', description='Namespace of the node.'),
    DeclareLaunchArgument(
        'use_sim_time', default_value='false', choices=['true', 'false'], description='Take the time from /clock.'
    ),
    DeclareLaunchArgument(
        'log_level',
        default_value='info',
        choices=['debug', 'info', 'warn', 'error', 'fatal'],
        description="The node's log level.",
    ),
    DeclareLaunchArgument(
        'rviz',
        default_value='false',
        choices=['true', 'false'],
        description='Show positions and annotated images in RViz; needs a target_frame.',
    ),
]
TOPICS = ('detections', 'depth', 'camera_info')


def space_displays(namespace: list[str], frame: str) -> dict[str, object]:
    """config/localizer.rviz with the topics of a namespace, seen in this frame."""
    document = yaml.safe_load((detector.CONFIG / 'localizer.rviz').read_text(encoding='utf-8'))
    manager = document['Visualization Manager']
    manager['Global Options']['Fixed Frame'] = frame
    for display in manager['Displays']:
        if 'Topic' in display:
            display['Topic']['Value'] = '/'.join(['', *namespace, display['Topic']['Value'].lstrip('/')])
        if 'Reference Frame' in display:
            display['Reference Frame'] = frame
    return document


def start(context: LaunchContext) -> list[Action]:
    """The nodes. Raises RuntimeError, before either runs, where params_file or RViz is not there or RViz has no frame."""
    given = detector.value_of(context, 'params_file')
    files = [Path(given).expanduser()] if given else []
    if files and not files[0].is_file():
        raise RuntimeError(f'params_file:={given} is not a file')
    texts = {name: detector.value_of(context, name) for name in ('mode', 'target_frame')}
    values = {name: text for name, text in texts.items() if text}
    frame = values.get('target_frame') or detector.parameter_in(files, 'localizer', 'target_frame', '')
    values['use_sim_time'] = detector.value_of(context, 'use_sim_time') == 'true'
    namespace, shown = detector.namespace_of(context), []
    if detector.value_of(context, 'rviz') == 'true':
        if not frame:
            raise RuntimeError(
                'rviz:=true needs the frame in which RViz shows the positions: target_frame:=map, or another'
            )
        shown = [detector.rviz(context, space_displays(namespace, frame), 'localizer.rviz')]
    logger = '.'.join([*namespace, 'localizer'])
    node = Node(
        package='kd_perception',
        executable='localizer_node',
        name='localizer',
        namespace=detector.value_of(context, 'namespace'),
        parameters=[*map(str, files), values],
        remappings=[(name, detector.value_of(context, name)) for name in TOPICS],
        ros_arguments=['--log-level', f'{logger}:={detector.value_of(context, "log_level")}'],
        output='screen',
        emulate_tty=True,
    )
    return [node, *shown]


def generate_launch_description() -> LaunchDescription:
    """The arguments, their check, and the nodes."""
    check = OpaqueFunction(function=lambda context: detector.check_names(context, ARGUMENTS, __file__))
    return LaunchDescription([*ARGUMENTS, check, OpaqueFunction(function=start)])

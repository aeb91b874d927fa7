"""Builds the Python package of a folder of msg/*.msg with the rosidl generators of a pip-installed ROS 2.

CMake and the C++ messages are left out: the generated C sources become one extension module, which holds the two type
supports that rclpy asks for, Fast DDS's and introspection. Field names, types and order are the standard's, so the type
hashes match those of any other node's messages.
"""

import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

HERE = Path.cwd()  # pip runs a setup.py in its own folder
MANIFEST = ElementTree.parse(HERE / 'package.xml').getroot()
PACKAGE = str(MANIFEST.findtext('name'))
DEPENDENCIES = ('builtin_interfaces', 'std_msgs', 'geometry_msgs')
# The first one's interfaces are reached through those of DEPENDENCIES.
INTERFACE_PACKAGES = ('service_msgs', *DEPENDENCIES)
TYPESUPPORTS = ('rosidl_typesupport_fastrtps_c', 'rosidl_typesupport_introspection_c')
MESSAGES = sorted(path.relative_to(HERE) for path in (HERE / 'msg').glob('*.msg'))

# Hands out the type support that is asked for. The generator's own dispatcher would look for one library each.
DISPATCH = """
#include <string.h>
#include "rosidl_runtime_c/message_type_support_struct.h"
#include "rosidl_typesupport_c/identifier.h"
#include "rosidl_typesupport_interface/macros.h"

#define HANDLE(typesupport) ROSIDL_TYPESUPPORT_INTERFACE__MESSAGE_SYMBOL_NAME(typesupport, @PACKAGE@, msg, @MESSAGE@)

const rosidl_message_type_support_t * HANDLE(rosidl_typesupport_fastrtps_c)(void);
const rosidl_message_type_support_t * HANDLE(rosidl_typesupport_introspection_c)(void);

static const rosidl_message_type_support_t * find(const rosidl_message_type_support_t * handle, const char * identifier)
{
  const rosidl_message_type_support_t * fastrtps = HANDLE(rosidl_typesupport_fastrtps_c)();
  const rosidl_message_type_support_t * introspection = HANDLE(rosidl_typesupport_introspection_c)();
  if (strcmp(identifier, handle->typesupport_identifier) == 0) {return handle;}
  if (strcmp(identifier, fastrtps->typesupport_identifier) == 0) {return fastrtps;}
  if (strcmp(identifier, introspection->typesupport_identifier) == 0) {return introspection;}
  return NULL;
}

const rosidl_message_type_support_t * HANDLE(rosidl_typesupport_c)(void)
{
  static rosidl_message_type_support_t handle;
  handle = *HANDLE(rosidl_typesupport_fastrtps_c)();  /* hash and description are the same for all */
  handle.typesupport_identifier = rosidl_typesupport_c__typesupport_identifier;
  handle.data = NULL;
  handle.func = find;
  return &handle;
}
"""


def ros_prefix() -> Path:
    """The folder that holds share/, include/ and lib/ of the ROS 2 wheels."""
    import std_msgs

    return Path(std_msgs.__file__).resolve().parents[4]


class Generators:
    """The rosidl generators, one method a stage, writing under `work`."""

    def __init__(self, work: Path, prefix: Path) -> None:
        self.work = work
        self.share = prefix / 'share'
        self.idl = work / 'idl' / PACKAGE

    def output(self, stage: str) -> Path:
        return self.work / stage / PACKAGE

    def arguments(self, generator: str, stage: str, **extra: object) -> str:
        """Writes the argument file that a generator reads, and names it."""
        output = self.output(stage)
        (output / 'msg').mkdir(parents=True)
        dependencies = [
            f'{package}:{idl}'
            for package in INTERFACE_PACKAGES
            for idl in sorted((self.share / package).glob('*/*.idl'))
        ]
        content = {
            'package_name': PACKAGE,
            'output_dir': str(output),
            'template_dir': str(self.share / generator / 'resource'),
            'idl_tuples': [f'{self.idl}:{message.with_suffix(".idl").as_posix()}' for message in MESSAGES],
            'ros_interface_dependencies': dependencies,
            'target_dependencies': [],
            **extra,
        }
        path = self.work / f'{stage}.json'
        path.write_text(json.dumps(content))
        return str(path)

    def translate(self) -> None:
        from rosidl_adapter.msg import convert_msg_to_idl

        for message in MESSAGES:
            convert_msg_to_idl(HERE, PACKAGE, message, self.idl / 'msg')

    def hash_types(self) -> None:
        from rosidl_generator_type_description import generate_type_hash

        include = [f'{package}:{self.share / package}' for package in INTERFACE_PACKAGES]
        generate_type_hash(self.arguments('rosidl_generator_type_description', 'types', include_paths=include))

    def write_visibility_headers(self) -> None:
        """CMake would do this; the generated headers include them."""
        for generator in ('rosidl_generator_c', *TYPESUPPORTS):
            name = f'{generator}__visibility_control.h'
            template = (self.share / generator / 'resource' / f'{name}.in').read_text()
            text = template.replace('@PROJECT_NAME@', PACKAGE).replace('@PROJECT_NAME_UPPER@', PACKAGE.upper())
            (self.output('c') / 'msg' / name).write_text(text)

    def write_dispatch(self) -> None:
        for message in MESSAGES:
            text = DISPATCH.replace('@PACKAGE@', PACKAGE).replace('@MESSAGE@', message.stem)
            (self.work / f'{message.stem}_dispatch.c').write_text(text)

    def write_sources(self) -> None:
        from rosidl_generator_c import generate_c
        from rosidl_generator_py import generate_py
        from rosidl_typesupport_fastrtps_c import generate_typesupport_fastrtps_c
        from rosidl_typesupport_introspection_c import generate_c as generate_introspection

        descriptions = [
            f'{message.with_suffix(".idl").as_posix()}:{self.output("types") / message.with_suffix(".json")}'
            for message in MESSAGES
        ]
        files = [str(HERE / message) for message in MESSAGES]
        generate_c(
            self.arguments('rosidl_generator_c', 'c', ros_interface_files=files, type_description_tuples=descriptions)
        )
        generate_typesupport_fastrtps_c(self.arguments('rosidl_typesupport_fastrtps_c', 'fastrtps'))
        generate_introspection(self.arguments('rosidl_typesupport_introspection_c', 'introspection'))
        generate_py(self.arguments('rosidl_generator_py', 'python'), ['rosidl_typesupport_c'])

    def run(self) -> None:
        shutil.rmtree(self.work, ignore_errors=True)
        self.translate()
        self.hash_types()
        self.write_sources()
        self.write_dispatch()
        self.write_visibility_headers()

    def c_sources(self) -> list[str]:
        return sorted(str(path) for path in self.work.rglob('*') if path.suffix in {'.c', '.cpp'})

    def python_modules(self) -> dict[Path, Path]:
        """Generated module → its path inside the package."""
        root = self.output('python')
        return {path: path.relative_to(root) for path in root.rglob('*.py')}


class BuildMessages(build_ext):
    """Generates the sources, then compiles them as an ordinary extension."""

    def build_extension(self, ext: Extension) -> None:
        import numpy

        prefix = ros_prefix()
        generators = Generators(Path(self.build_temp).resolve() / 'generated', prefix)
        generators.run()

        ext.sources = generators.c_sources()
        ext.include_dirs = [str(generators.work / stage) for stage in ('c', 'fastrtps', 'introspection', 'python')]
        ext.include_dirs += [str(path) for path in (prefix / 'include').iterdir() if path.is_dir()]
        ext.include_dirs += [numpy.get_include()]
        ext.library_dirs = [str(prefix / 'lib')]
        parts = ('rosidl_generator_c', 'rosidl_generator_py', *TYPESUPPORTS)
        ext.libraries = [
            *(f'{name}__{part}' for name in DEPENDENCIES for part in parts),
            *('rosidl_runtime_c', 'rcutils', 'rosidl_typesupport_c', *TYPESUPPORTS),
            *('rosidl_typesupport_fastrtps_cpp', 'fastcdr'),
        ]
        ext.extra_compile_args = ['-O1', '-g0', '-fvisibility=default', '-Wno-unused']
        super().build_extension(ext)
        self.copy_modules(generators, Path(self.get_ext_fullpath(ext.name)).parent)

    def copy_modules(self, generators: Generators, package: Path) -> None:
        for source, target in generators.python_modules().items():
            (package / target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, package / target)
        (package / '__init__.py').touch()


def build() -> None:
    """Run setuptools for the package in the current folder."""
    setup(
        name=f'kd-perception-{PACKAGE.replace("_", "-")}',
        version=MANIFEST.findtext('version'),
        description=f'{PACKAGE} interfaces for a pip-installed ROS 2',
        license='Apache-2.0',
        python_requires='>=3.10',
        install_requires=['ros-rclpy[fastrtps]', 'ros-std-msgs', 'ros-geometry-msgs', 'numpy'],
        ext_modules=[Extension(f'{PACKAGE}.{PACKAGE}_s__rosidl_typesupport_c', [])],
        cmdclass={'build_ext': BuildMessages},
        data_files=[
            ('share/ament_index/resource_index/packages', [f'resource/{PACKAGE}']),
            ('share/ament_index/resource_index/rosidl_interfaces', [f'resource/{PACKAGE}']),
            (f'share/{PACKAGE}', ['package.xml']),
            (f'share/{PACKAGE}/msg', [message.as_posix() for message in MESSAGES]),
        ],
    )

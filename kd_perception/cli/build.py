"""`kd_perception engine`: build engines before they are needed, and look after what is kept of them."""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import closing

from kd_perception import engines
from kd_perception.bundles.bundle import find_bundle, load_bundle
from kd_perception.engines import cache
from kd_perception.engines.options import EngineOptions
from kd_perception.errors import EngineError


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare `engine build` and `engine cache`."""
    engine = commands.add_parser(
        'engine',
        help='build engines ahead of time, show and clear what is kept',
        epilog='example: kd_perception engine build aerial_traffic --engine tensorrt',
    )
    actions = engine.add_subparsers(metavar='ACTION', required=True)

    build = actions.add_parser(
        'build',
        help='build an engine and keep it, so that the node starts at once',
        description=(
            'Builds an engine for a bundle and runs nothing. TensorRT engines take minutes on a Jetson and are kept by model, '
            'TensorRT version, GPU and precision; the other engines load in a moment, which this command then only proves.'
        ),
        epilog='Example: kd_perception engine build aerial_traffic --engine tensorrt --precision fp16',
    )
    build.add_argument('bundle', help='folder, or name of an installed bundle')
    build.add_argument('--engine', default='tensorrt', choices=sorted(engines.ENGINES), help='default: %(default)s')
    build.add_argument('--precision', default='', help='fp32, fp16, int8, … (default: all that the engine can)')
    build.add_argument('--device', type=int, default=0, metavar='N', help='which GPU (default: %(default)s)')
    build.set_defaults(run=_build)

    kept = actions.add_parser(
        'cache',
        help='list what is kept, or remove it',
        description=f'Engines are kept in ${cache.FOLDER_VARIABLE}, by default ~/.cache/kd_perception.',
        epilog='example: kd_perception engine cache --clear',
    )
    kept.add_argument('--clear', action='store_true', help='remove everything; it is built again when it is needed')
    kept.set_defaults(run=_cache)


def _build(options: argparse.Namespace) -> int:
    bundle = load_bundle(find_bundle(options.bundle))
    wanted = [
        (artifact, precision)
        for artifact in bundle.artifacts
        for precision in engines.precisions(options.engine, artifact)
        if engines.can_run(options.engine, artifact, precision) and options.precision in ('', precision)
    ]
    if not wanted:
        reasons = [engines.obstacle(options.engine, a, options.precision) for a in bundle.artifacts]
        raise EngineError(f'{options.engine} can build nothing of {bundle.name}: {"; ".join(filter(None, reasons))}')
    for artifact, precision in wanted:
        started = time.monotonic()
        chosen = EngineOptions(precision=precision, device_id=options.device)
        with closing(engines.load(bundle, artifact, chosen, options.engine)) as engine:
            info = engine.info
        seconds = time.monotonic() - started
        print(f'{bundle.name} {artifact.file} in {precision} on {info.provider}: ready after {seconds:.1f} s')
        for warning in info.warnings:
            print(f'kd_perception: {warning}', file=sys.stderr)
    return 0


def _cache(options: argparse.Namespace) -> int:
    entries = cache.clear() if options.clear else cache.entries()
    for entry in entries:
        made_of = ', '.join(f'{key} {value[:40]}' for key, value in entry.made_of.items())
        print(f'{entry.size / 2**20:8.1f} MiB  {made_of}')
    total = sum(entry.size for entry in entries) / 2**20
    verb = 'removed' if options.clear else 'kept'
    print(f'{cache.cache_folder()}: {len(entries)} engines {verb}, {total:.1f} MiB')
    return 0

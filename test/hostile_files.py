"""Pictures, bags and metadata mutated at random, in a process that may take little memory: run by test_hostile_files.py.

Every mutation ends in a result or in one of the package's own errors; anything else is raised, and ends the process.
"""

from __future__ import annotations

import random
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np

from kd_perception.bags import packed, sources
from kd_perception.bags.info import describe
from kd_perception.bags.sources import read_image
from kd_perception.bags.writer import BagWriter
from kd_perception.detection.image import decode_compressed
from kd_perception.errors import BagError, ImageError

SPARE_BYTES = 400 << 20
"""Beside what the process has when it begins: for 4 million pixels, and 16 MB of a bag."""
PIXELS = 4_000_000
DECLARED = (
    '',
    'jpeg',
    'bgr8; jpeg compressed bgr8',
    'bayer_rggb8; png compressed ',
    'mono16; png compressed ',
    '16UC1; png',
    ';',
)
NUMBERS = (
    b'\xff' * 4,
    b'\x7f' + b'\xff' * 3,
    bytes(4),
    b'\xff\xff\xff\x7f',
    b'\0\0\xff\xff',
    b'\xff\xd9',
    b'\xff\xda',
    b'IDAT',
)


def main(kind: str, count: int, seed: int, corpus: Path | None) -> None:
    """Mutate so many files of a kind."""
    sources.MAX_FILE_PIXELS = PIXELS  # type: ignore[misc]
    packed.MAX_UNPACKED_BYTES = packed._ALWAYS_ALLOWED = 16 << 20  # type: ignore[misc]
    draw = random.Random(seed)
    try_one, seeds = {'pictures': (try_picture, picture_seeds), 'bags': (try_bag, bag_seeds)}[kind]
    with tempfile.TemporaryDirectory() as folder:
        files = seeds(Path(folder), corpus)
        for name, content in files:
            try_one(Path(folder), name, content, draw)  # whole: threads and buffers come to be before the limit
        used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + SPARE_BYTES, used + SPARE_BYTES))
        for _ in range(count):
            name, content = draw.choice(files)
            try_one(Path(folder), name, mutated(content, draw), draw)
    print(f'{count} mutations of {len(files)} {kind}')


def mutated(content: bytes, draw: random.Random) -> bytes:
    """Bits turned, numbers replaced, pieces cut, doubled and moved."""
    result = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 4, 8))):
        at = draw.randrange(len(result) + 1)
        piece = bytes(result[at : at + draw.randrange(64)])
        if draw.random() < 0.4 and at < len(result):
            result[at] ^= 1 << draw.randrange(8)
        else:
            result[at : at + draw.choice((0, 1, 4, len(piece)))] = draw.choice((*NUMBERS, piece * 2, b''))
    return bytes(result[: draw.randrange(len(result) + 1)] if draw.random() < 0.1 else result)


def picture_seeds(folder: Path, corpus: Path | None) -> list[tuple[str, bytes]]:
    """Pictures of every format that is decoded, and those of the corpus."""
    smooth = cv2.resize(np.random.default_rng(0).integers(0, 255, (6, 8, 3), dtype=np.uint8), (64, 48))
    made: list[tuple[str, bytes]] = []
    for suffix, *settings in (
        ('.jpg',),
        ('.jpg', cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        ('.jpg', cv2.IMWRITE_JPEG_RST_INTERVAL, 2),
        ('.png',),
        ('.bmp',),
        ('.tiff', cv2.IMWRITE_TIFF_COMPRESSION, 1),
        ('.tiff', cv2.IMWRITE_TIFF_COMPRESSION, 5),
        ('.webp', cv2.IMWRITE_WEBP_QUALITY, 80),
        ('.webp', cv2.IMWRITE_WEBP_QUALITY, 101),
    ):
        made.append((f'made{suffix}', cv2.imencode(suffix, smooth, settings)[1].tobytes()))
        made.append((f'grey{suffix}', cv2.imencode(suffix, smooth[..., 0], settings)[1].tobytes()))
    found = sorted(path for path in corpus.rglob('*') if path.is_file()) if corpus else []
    return made + [(path.name, content) for path in found if 0 < len(content := path.read_bytes()) < 100_000]


def try_picture(folder: Path, name: str, content: bytes, draw: random.Random) -> None:
    """As a message of a camera, and as a file."""
    file = folder / 'picture'
    file.write_bytes(content)
    tries: tuple[Callable[[], np.ndarray], ...] = (
        lambda: decode_compressed(content, PIXELS, draw.choice(DECLARED)),
        lambda: read_image(file),
    )
    for attempt in tries:
        try:
            image = attempt()
        except ImageError:
            continue
        assert image.dtype == np.uint8
        assert image.ndim == 3
        assert image.shape[2] == 3
        assert image.shape[0] * image.shape[1] <= PIXELS


def bag_seeds(folder: Path, _: Path | None) -> list[tuple[str, bytes]]:
    """The files of bags of every form."""
    seeds = []
    for storage, compression in (
        ('mcap', 'none'),
        ('mcap', 'storage'),
        ('mcap', 'file'),
        ('mcap', 'message'),
        ('sqlite3', 'none'),
    ):
        bag = folder / f'{storage}_{compression}'
        with BagWriter(bag, storage, compression) as writer:  # type: ignore[arg-type]
            writer.label_info('/label_info', 1, ['car'])
            for number in range(3):
                writer.image('/image', 1 + number, np.full((4, 6, 3), number, np.uint8))
                writer.jpeg('/jpeg', 1 + number, np.full((8, 8, 3), number, np.uint8))
        seeds += [(f'{bag.name}/{file.name}', file.read_bytes()) for file in sorted(bag.iterdir())]
    return seeds


def try_bag(folder: Path, name: str, content: bytes, draw: random.Random) -> None:
    """In its bag, or its file alone."""
    whole, file = name.split('/')
    bag = folder / 'mutated'
    shutil.rmtree(bag, ignore_errors=True)
    shutil.copytree(folder / whole, bag)
    (bag / file).write_bytes(content)
    if file != 'metadata.yaml' and draw.random() < 0.5:
        (bag / 'metadata.yaml').unlink()
    with suppress(BagError):
        assert describe(bag)


if __name__ == '__main__':
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]) if len(sys.argv) > 4 else None)

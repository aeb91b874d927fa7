"""What teachers said of the pictures of each step, kept on disk, so that a second run with the same pictures asks nobody.

The pictures of a step depend on the data seed and the step alone. So arms of a study, students of other sizes and other seeds
of the weights hear the same answers, as long as the data seed stays (`fit.data_seed`).

    FOLDER/<teacher>/<pictures>/<layer or "head">/<batch>

A file is a line of JSON and the plain bytes of its tensors. It is written beside and then renamed, so that it is whole or not
there, whoever writes it at the same time. It names the hash of its pictures and of its bytes; one that does not agree is made
again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.distill.outputs import Outputs
from training.errors import FitError

HEAD = 'head'
LONGEST_HEADER = 1 << 16
DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError)
_logger = logging.getLogger(__name__)


class Replay:
    """One teacher's answers.

    Args:
        folder: of this teacher and these pictures; other runs may use it at the same time.
        items: the layers whose maps are wanted, and HEAD.
        dtype: in which the teacher computes; what does not fit into it is kept in float32.
        round_to: a narrower one in which answers are kept and heard, also when they are not kept yet; None changes nothing.
    """

    def __init__(
        self, folder: Path, items: Sequence[str], dtype: torch.dtype, round_to: torch.dtype | None = None
    ) -> None:
        self.folder = folder
        self.items = tuple(dict.fromkeys(items))
        self._dtype, self._round_to = dtype, round_to
        self._warned = False

    def missing(self, places: Sequence[str]) -> dict[str, int]:
        """How many of these batches each item lacks."""
        return {item: len(set(places) - self._kept(item)) for item in self.items}

    def _kept(self, item: str) -> set[str]:
        try:
            return {entry.name for entry in os.scandir(self.folder / item)}
        except FileNotFoundError:
            return set()

    def recall(self, place: str, pictures: str, device: torch.device) -> Outputs | None:
        """The answer to a batch, or None where a part of it is not kept.

        Args:
            place: of the batch.
            pictures: their hash.
            device: where the answer is wanted.
        """
        maps: dict[str, Tensor] = {}
        branches: dict[str, dict[str, Any]] = {}
        for item in self.items:
            tensors = self._read(item, place, pictures)
            if tensors is None:
                return None
            tensors = {name: value.to(device) for name, value in tensors.items()}
            if item == HEAD:
                branches = _nested(tensors)
            else:
                maps[item] = tensors['map']
        return Outputs(maps, branches)

    def keep(self, place: str, pictures: str, outputs: Outputs) -> Outputs:
        """Write an answer, unless it is there; returns what later runs will hear.

        Raises:
            FitError: it cannot be written, or not in that precision.
        """
        heard = outputs if self._round_to is None else _rounded(outputs, self._round_to)
        for item, tensors in self._parts(heard):
            if self._read(item, place, pictures) is None:
                _write(self.folder / item / place, pictures, tensors, self._round_to or self._dtype)
        return heard

    def _read(self, item: str, place: str, pictures: str) -> dict[str, Tensor] | None:
        """The tensors of a file; None where there is none, or none that can be trusted."""
        file = self.folder / item / place
        try:
            return _read(file, pictures)
        except FileNotFoundError:
            return None
        except _UNREADABLE as error:
            # Once: where the pictures themselves have changed, it is so with all files.
            _logger.log(logging.DEBUG if self._warned else logging.WARNING, '%s is made again: %s', file, error)
            self._warned = True
            return None

    def size_of(self, outputs: Outputs) -> dict[str, int]:
        """Bytes that each item of an answer takes."""
        width = self._round_to or self._dtype
        return {
            item: sum(
                value.numel() * _narrowest(value, width).itemsize for value in tensors.values() if not _is_grid(value)
            )
            for item, tensors in self._parts(outputs)
        }

    def _parts(self, outputs: Outputs) -> Iterator[tuple[str, dict[str, Tensor]]]:
        for item in self.items:
            yield item, _flat(outputs.branches) if item == HEAD else {'map': outputs.maps[item]}


class Recorder:
    """Asks teachers, or recalls what they said.

    Args:
        folder: of all teachers' answers.
        replays: of the teachers by name.
        limit: of the folder in bytes.
        shares: of processes that write as much as this one.
    """

    def __init__(self, folder: Path, replays: Mapping[str, Replay], limit: float, shares: int = 1) -> None:
        self._folder, self._replays = folder, replays
        self._limit, self._shares = limit, shares
        self._room: set[str] = set()

    def __call__(
        self, teacher: str, place: str, pictures: str, device: torch.device, ask: Callable[[], Outputs],
        later: Callable[[], Sequence[str]],
    ) -> Outputs:  # fmt: skip
        """What a teacher says of a batch.

        Args:
            teacher: by name.
            place: of the batch.
            pictures: their hash.
            device: where the answer is wanted.
            ask: the teacher itself.
            later: the places that are still to come, this one among them.

        Raises:
            FitError: the answers to the batches to come do not fit into the limit or onto the disk.
        """
        replay = self._replays[teacher]
        found = replay.recall(place, pictures, device)
        if found is not None:
            return found
        outputs = ask()
        if teacher not in self._room:
            self._make_sure_of_room(replay, outputs, later())
            self._room.add(teacher)
        return replay.keep(place, pictures, outputs)

    def _make_sure_of_room(self, replay: Replay, outputs: Outputs, later: Sequence[str]) -> None:
        sizes, missing = replay.size_of(outputs), replay.missing(later)
        needed = sum(sizes[item] * missing[item] for item in sizes) * self._shares
        kept = sum(file.stat().st_size for file in self._folder.rglob('*') if file.is_file())
        if needed + kept > self._limit:
            raise FitError(
                f'the answers of the teacher to {max(missing.values())} batches take {needed / 1e9:.3g} GB, and {self._folder} '
                f'holds {kept / 1e9:.3g} GB already: more than cache_gb, {self._limit / 1e9:g}. Raise cache_gb, remove what is '
                'not needed any longer, keep them in half the room by cache_precision: float16, or leave cache out'
            )
        self._folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self._folder).free
        if needed > free:
            raise FitError(
                f'the answers of the teacher to {max(missing.values())} batches take {needed / 1e9:.3g} GB, but the disk of '
                f'{self._folder} has {free / 1e9:.3g} GB free: make room, or leave cache out'
            )


def hash_of(value: Tensor) -> str:
    """SHA-256 of a tensor's bytes on the CPU."""
    return hashlib.sha256(_bytes(value)).hexdigest()


def key_of(*parts: object) -> str:
    """A folder's name for all that answers depend on."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _flat(branches: Mapping[str, Mapping[str, Any]]) -> dict[str, Tensor]:
    """`one2many/scores` and so on; of the maps that a head reads, which terms name as layers, their grids alone."""
    flat: dict[str, Tensor] = {}
    for branch, values in branches.items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                flat[f'{branch}/{name}'] = value
            else:
                flat.update({f'{branch}/{name}/{number}': _grid(of.shape) for number, of in enumerate(value)})
    return flat


def _nested(flat: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    branches: dict[str, dict[str, Any]] = {}
    for key, value in flat.items():
        branch, name, *number = key.split('/')
        entries = branches.setdefault(branch, {})
        if number:
            entries.setdefault(name, []).append(value)
        else:
            entries[name] = value
    return branches


def _grid(shape: Sequence[int]) -> Tensor:
    """Stands for a map of which the shape alone is asked."""
    return torch.zeros(()).expand(tuple(shape))


def _is_grid(value: Tensor) -> bool:
    return value.ndim > 0 and not any(value.stride())


def _rounded(outputs: Outputs, dtype: torch.dtype) -> Outputs:
    def of(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return [of(item) for item in value]
        narrow = value.to(dtype)
        if not bool(narrow.isfinite().all()):
            raise FitError(
                f'a teacher puts out {float(value.abs().max()):g}, beyond {dtype}: leave out cache_precision'
            )
        return narrow.to(value.dtype)

    maps = {name: of(value) for name, value in outputs.maps.items()}
    branches = {name: {key: of(value) for key, value in branch.items()} for name, branch in outputs.branches.items()}
    return Outputs(maps, branches)


def _narrowest(value: Tensor, dtype: torch.dtype) -> torch.dtype:
    """That one if it holds the value without loss, else float32."""
    return dtype if torch.equal(value.to(dtype).to(value.dtype), value) else torch.float32


def _bytes(value: Tensor) -> memoryview:
    return value.contiguous().reshape(-1).view(torch.uint8).numpy().data


def _write(file: Path, pictures: str, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    entries: list[dict[str, Any]] = []
    parts: list[memoryview] = []
    for name, value in tensors.items():
        if _is_grid(value):
            entries.append({'name': name, 'shape': list(value.shape)})
            continue
        # As they lie in memory: sums over a tensor that lies otherwise may differ in the last bit.
        strides = value.stride()
        order = sorted(range(value.ndim), key=lambda dim, strides=strides: (-strides[dim], dim))
        kept = value.detach().permute(order).to('cpu', _narrowest(value, dtype))
        entries.append({'name': name, 'shape': list(kept.shape), 'order': order, 'dtype': str(kept.dtype)[6:]})
        parts.append(_bytes(kept))
    header = json.dumps({'pictures': pictures, 'sha256': _digest(entries, *parts), 'tensors': entries}) + '\n'
    part = ''
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, prefix='.', suffix='.part', delete=False) as stream:
            part = stream.name
            stream.write(header.encode())
            for payload in parts:
                stream.write(payload)
        os.replace(part, file)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise FitError(f'{file} cannot be written: {error}; is the disk full?') from error


def _read(file: Path, pictures: str) -> dict[str, Tensor]:
    """The tensors of a file, float32."""
    with file.open('rb') as stream:
        header = json.loads(stream.readline(LONGEST_HEADER))
        entries = header['tensors']
        if header['pictures'] != pictures:
            raise ValueError('it is of other pictures')
        if os.fstat(stream.fileno()).st_size - stream.tell() != _length(entries):
            raise ValueError('it is broken off')
        body = bytearray(stream.read())
    if header['sha256'] != _digest(entries, body):
        raise ValueError('its bytes are not those that were written')
    return _tensors(entries, body)


def _digest(entries: Sequence[Mapping[str, Any]], *parts: memoryview | bytearray) -> str:
    digest = hashlib.sha256(json.dumps(entries).encode())
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _length(entries: Sequence[Mapping[str, Any]]) -> int:
    return sum(math.prod(entry['shape']) * DTYPES[entry['dtype']].itemsize for entry in entries if 'dtype' in entry)


def _tensors(entries: Sequence[Mapping[str, Any]], body: bytearray) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    start = 0
    for entry in entries:
        if 'dtype' not in entry:
            found[entry['name']] = _grid(entry['shape'])
            continue
        dtype, count = DTYPES[entry['dtype']], math.prod(entry['shape'])
        flat = torch.frombuffer(body, dtype=dtype, count=count, offset=start) if count else torch.empty(0, dtype=dtype)
        order = entry['order']
        back = [order.index(dim) for dim in range(len(order))]
        found[entry['name']] = flat.view(entry['shape']).permute(back).float()
        start += count * dtype.itemsize
    return found

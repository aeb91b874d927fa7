"""What an engine makes of a bundle on this machine (a TensorRT engine takes minutes), kept between runs.

One file an entry: a line of JSON that says of what it was made, with the hash of the content, and the content. An entry is
written beside its place and renamed, so that no reader sees half of one; a lock lets two processes that need the same entry build
it once. A folder that cannot be used costs the time to build, never the start.

What is kept is run, so that it is trusted only where nobody else could have laid it: folder and entry belong to the user, or to
root, and others cannot write to them.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

FOLDER_VARIABLE = 'KD_PERCEPTION_CACHE'
SUFFIX = '.engine'
LIMIT_BYTES = 4 << 30
_MAX_HEADER = 1 << 16
_AS_IT_IS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""No link is followed, and no pipe waited for."""
_DAMAGED = (OSError, ValueError, KeyError, TypeError, RecursionError)

Report = Callable[[str], None]


@dataclass(frozen=True)
class Entry:
    """One kept file: of what it was made, and its size."""

    path: Path
    made_of: Mapping[str, str]
    size: int


def cache_folder() -> Path:
    """$KD_PERCEPTION_CACHE, else kd_perception in the user's cache folder ($XDG_CACHE_HOME or ~/.cache)."""
    if os.environ.get(FOLDER_VARIABLE):
        return Path(os.environ[FOLDER_VARIABLE])
    base = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    return Path(base).expanduser() / 'kd_perception'


def cached(made_of: Mapping[str, str], build: Callable[[], bytes], report: Report) -> bytes:
    """The entry for `made_of`, built if there is none, or none that is whole.

    Args:
        made_of: everything that the content depends on; another value anywhere is another entry.
        build: makes the content; its errors pass through.
        report: takes a line about waiting, and about a folder that cannot be used.
    """
    folder = usable_folder(report)
    if folder is None:
        return build()
    path = folder / _name_of_file(made_of)
    content = _read(path, made_of, report)
    if content is not None:
        return content
    lock = _lock(path.with_suffix('.lock'), made_of, report)
    if lock is None:
        return build()
    with lock:
        # Whoever held the lock before may have built it.
        content = _read(path, made_of, report)
        if content is None:
            content = build()
            _keep(path, made_of, content, report)
        return content


def kept(made_of: Mapping[str, str]) -> bytes | None:
    """The entry for `made_of`, if there is one that is whole and trusted."""
    folder = usable_folder(lambda line: None)
    return None if folder is None else _read(folder / _name_of_file(made_of), made_of, lambda line: None)


def usable_folder(report: Report, part: str = '') -> Path | None:
    """The cache's folder, or a part of it, made where it is missing; None, and a report, where it cannot be used or trusted."""
    folder = cache_folder()
    for path in (folder, folder / part) if part else (folder,):
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            strangers = _strangers(path.stat())
        except OSError as error:
            report(_unusable(path, error))
            return None
        if strangers:
            report(
                f'{path} {strangers}, so that nothing of it is trusted, and what is built is not kept: chmod go-w {path}, or set '
                f'{FOLDER_VARIABLE} to a folder of your own'
            )
            return None
    return folder / part


def _strangers(facts: os.stat_result) -> str:
    """Who else could have written a file or folder; empty when nobody could."""
    if facts.st_uid not in (os.geteuid(), 0):
        return 'belongs to another user'
    return 'can be written by others' if facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH) else ''


def forget(made_of: Mapping[str, str]) -> None:
    """Remove the entry for `made_of`, if there is one that can be removed."""
    with suppress(OSError):
        (cache_folder() / _name_of_file(made_of)).unlink()


def entries() -> list[Entry]:
    """What is kept, the longest unused first."""
    found = []
    for path in cache_folder().glob(f'*{SUFFIX}'):
        with suppress(*_DAMAGED):
            with _open(path) as file:
                made_of = json.loads(file.readline(_MAX_HEADER))['made_of']
            if isinstance(made_of, dict) and all(isinstance(value, str) for value in made_of.values()):
                found.append((path.stat().st_mtime, Entry(path, made_of, path.stat().st_size)))
    return [entry for _, entry in sorted(found, key=lambda item: item[0])]


def clear(limit_bytes: int = 0) -> list[Entry]:
    """Remove the longest unused entries until at most `limit_bytes` are left; returns what was removed."""
    kept = entries()
    total = sum(entry.size for entry in kept)
    removed = []
    for entry in kept:
        if total <= limit_bytes:
            break
        with suppress(OSError):
            entry.path.unlink()
            total -= entry.size
            removed.append(entry)
    return removed


def _name_of_file(made_of: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(dict(made_of), sort_keys=True).encode()).hexdigest()
    return f'{made_of.get("engine", "entry")}-{digest[:24]}{SUFFIX}'


def _lock(path: Path, made_of: Mapping[str, str], report: Report) -> IO[bytes] | None:
    """A file that is locked until it is closed, or the process ends; None, and a report, where the folder cannot be used."""
    try:
        file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | _AS_IT_IS, 0o600), 'ab')
    except OSError as error:
        report(_unusable(path.parent, error))
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        report(f'another process is building {_name(made_of)}; waiting for it')
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:  # a network folder without locks
        file.close()
        report(_unusable(path.parent, error))
        return None
    return file


def _open(path: Path) -> IO[bytes]:
    """An entry that nobody else could have laid."""
    file = os.fdopen(os.open(path, os.O_RDONLY | _AS_IT_IS), 'rb')
    facts = os.fstat(file.fileno())
    strangers = _strangers(facts) or ('' if stat.S_ISREG(facts.st_mode) else 'is no file')
    if strangers:
        file.close()
        raise PermissionError(f'it {strangers}')
    return file


def _read(path: Path, made_of: Mapping[str, str], report: Report) -> bytes | None:
    """The content of an entry; None where there is none, or a damaged one, which is reported."""
    try:
        with _open(path) as file:
            header = json.loads(file.readline(_MAX_HEADER))
            content = file.read(LIMIT_BYTES)
        whole = header['made_of'] == dict(made_of) and header['sha256'] == hashlib.sha256(content).hexdigest()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except _DAMAGED as error:
        report(f'{path} cannot be read ({error}); it is built again')
        return None
    if not whole:
        report(f'{path} is damaged; it is built again')
        return None
    with suppress(OSError):
        os.utime(path)
    return content


def _keep(path: Path, made_of: Mapping[str, str], content: bytes, report: Report) -> None:
    """Write an entry, whole or not at all; a folder that is full or read-only is reported and costs the next start."""
    header = {'made_of': dict(made_of), 'sha256': hashlib.sha256(content).hexdigest()}
    scratch = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix='.part', delete=False) as file:
            scratch = Path(file.name)
            file.write(json.dumps(header).encode() + b'\n' + content)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    except OSError as error:
        if scratch is not None:
            with suppress(OSError):
                scratch.unlink()
        report(_unusable(path.parent, error))
        return
    clear(max(LIMIT_BYTES, len(content) + _MAX_HEADER))


def _unusable(folder: Path, error: OSError) -> str:
    return (
        f'{folder} cannot keep what was built ({error.strerror or error}): it runs, and is built again at the next start. '
        f'Free space there, or set {FOLDER_VARIABLE} to a folder that can be written'
    )


def _name(made_of: Mapping[str, str]) -> str:
    return ' '.join(made_of[key] for key in ('engine', 'model', 'precision') if key in made_of) or 'it'

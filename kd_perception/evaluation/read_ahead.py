"""Reading ahead: a thread fetches the next items while the last ones are worked on."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from typing import TypeVar

T = TypeVar('T')
R = TypeVar('R')

_END = object()


def read_ahead(items: Iterable[T], prepare: Callable[[T], R], depth: int) -> Generator[R, None, None]:
    """`prepare(item)` for every item in order, up to `depth` of them made ahead of time; memory stays bounded by that.

    An exception of the items or of `prepare` is raised here, at its place in the order. When the iteration is left early, the
    thread ends with the item that it is at.

    Args:
        items: what to read.
        prepare: what is done to each, in the thread.
        depth: items made ahead; 0 does everything in the caller's thread.
    """
    if depth == 0:
        yield from map(prepare, items)
        return
    ready: queue.Queue[object] = queue.Queue(depth)
    left = threading.Event()

    def put(item: object) -> None:
        while not left.is_set():
            with suppress(queue.Full):
                ready.put(item, timeout=0.1)
                break

    def read() -> None:
        try:
            for item in items:
                put(prepare(item))
                if left.is_set():
                    return
            put(_END)
        except BaseException as error:  # it belongs to the reader's caller
            put(_Failure(error))

    thread = threading.Thread(target=read, name='read_ahead', daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not _END:
            if isinstance(item, _Failure):
                raise item.error
            yield item  # type: ignore[misc]
    finally:
        left.set()
        thread.join()


class _Failure:
    def __init__(self, error: BaseException) -> None:
        self.error = error

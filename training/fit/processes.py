"""Several processes that train one network together, started by `torchrun`; or one.

Gradients are summed over all processes and normalization statistics are averaged at every step, so that all have the same
network, and a checkpoint of the first one is enough for all.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed

from training.errors import FirstProcessFailed

LONGEST_WAIT = timedelta(days=2)
"""While the first process prepares data or measures, the others wait; torchrun ends them all when one fails."""


@dataclass(frozen=True)
class Group:
    """The processes of a run.

    Attributes:
        rank: this one's number, from 0.
        size: how many there are.
        device: this one's.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this one writes files."""
        return self.rank == 0

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their sums over all processes."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([value.detach().reshape(-1).float() for value in tensors])
        distributed.all_reduce(flat)
        parts = torch.split(flat, [value.numel() for value in tensors])
        with torch.no_grad():
            for value, part in zip(tensors, parts, strict=True):
                value.copy_(part.view(value.shape))

    def mean(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their means over all processes."""
        self.sum(tensors)
        if self.size > 1:
            torch._foreach_div_(list(tensors), float(self.size))

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Add up the gradients; who has none adds 0."""
        if self.size == 1:
            return
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        for parameter in trained:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.sum([parameter.grad for parameter in trained if parameter.grad is not None])

    def any(self, flag: bool) -> bool:
        """Whether it is so in one of the processes at least."""
        if self.size == 1:
            return flag
        value = torch.tensor(float(flag), device=self.device)
        self.sum([value])
        return bool(value > 0)

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            distributed.barrier()

    def first_does(self, work: Callable[[], bool | None]) -> bool:
        """Work that the first process does while the others wait; what it found holds for all.

        Raises:
            FirstProcessFailed: in the others, where `work` failed in the first, which raises its own error.
        """
        if self.size == 1:
            return bool(work())
        failed = 2
        answer = torch.tensor(failed, device=self.device)
        try:
            if self.first:
                answer.fill_(int(bool(work())))
        finally:
            distributed.broadcast(answer, 0)
        if int(answer) == failed:
            raise FirstProcessFailed
        return bool(answer)


@contextmanager
def joined() -> Iterator[Group]:
    """The processes that torchrun started, or this one alone."""
    size, rank = int(os.environ.get('WORLD_SIZE', '1')), int(os.environ.get('RANK', '0'))
    cuda = torch.cuda.is_available()
    device = torch.device('cuda', int(os.environ.get('LOCAL_RANK', '0'))) if cuda else torch.device('cpu')
    if cuda:
        torch.cuda.set_device(device)
    if size == 1:
        yield Group(0, 1, device)
        return
    own = not distributed.is_initialized()
    if own:
        # Its functions have the group of the moment of their import as a default. Imported later, by anybody, they would
        # keep the group beyond its end, and a thread of it that meets the end of the interpreter aborts the process.
        from torch.distributed.nn import functional  # noqa: F401

        distributed.init_process_group('nccl' if cuda else 'gloo', timeout=LONGEST_WAIT)
    try:
        yield Group(rank, size, device)
    finally:
        if own:
            distributed.destroy_process_group()

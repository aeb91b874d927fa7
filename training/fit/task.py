"""What a task gives to the loop that trains it: its network, its batches, its loss, its measurement."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from training.fit.schedule import Schedule
from training.fit.settings import FitSettings
from training.prune.sparsity import SparsitySettings

NOBODY: Mapping[str, Any] = {'teacher': None, 'teacher_sha256': None, 'teacher_map': None}
"""The record of a training without a teacher."""


@dataclass(frozen=True)
class Losses:
    """Of one batch.

    Attributes:
        backward: whose gradients, summed over the batches and the processes of a step, move the weights.
        values: what the log shows, `loss` and its parts by name.
    """

    backward: Tensor
    values: Mapping[str, Tensor]


class Measuring(Protocol):
    """Measures a network while it is trained, see `training.fit.validation.Validation`.

    Attributes:
        worse: measurements since the best one.
    """

    worse: int

    def measure(self, network: Any, step: int) -> Mapping[str, float]:
        """The figures of a copy of the network, which is kept where it is the best so far."""
        ...

    def state(self) -> dict[str, Any]:
        """What a resumed run must know."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`."""
        ...


class Task(Protocol):
    """One training, as the loop asks for it; `fit.detector` and `fit.classifier` are tasks.

    Attributes:
        settings: how it is fitted.
        seed: of what is drawn in a step.
        student: the network.
        terms: what is trained beside it: adapters and memory banks of distillation losses.
        schedule: which pictures come in which step.
        first_steps: of a stage before the task itself, at the full learning rate; 0 for most.
        validation: measures during the training; None does not.
        sparsity: drives batch-norm scales to zero; None does not.
    """

    settings: FitSettings
    seed: int
    student: Any
    terms: nn.Module
    schedule: Schedule
    first_steps: int
    validation: Measuring | None
    sparsity: SparsitySettings | None

    def batches(self, step: int) -> Iterator[Any]:
        """This process's batches from a step on, `schedule.accumulate` for each step."""
        ...

    def advance(self, progress: float) -> None:
        """What depends on the share of the steps that are done, 0 … 1, beside the learning rate."""
        ...

    def losses(self, batch: Any, step: int, part: int) -> Losses:
        """Forward pass and losses of a batch, the one of that number in its step."""
        ...

    def notes(self) -> Mapping[str, float]:
        """More figures of the step that was made, for the log."""
        ...

    def drop(self, *, halved: bool) -> None:
        """Forget a batch that was broken off for want of memory; `halved` once the schedule has smaller ones."""
        ...

    def state(self) -> dict[str, Any]:
        """What a resumed run must know beside the networks."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`."""
        ...

    def bare(self) -> Any:
        """A copy of the student alone, without what the training hung on it."""
        ...

    def save(self, network: Any, file: Path) -> None:
        """Write a network of `bare` as the result."""
        ...

    def end(self) -> Mapping[str, Any]:
        """Prove that the teachers are what they were; who they are, for the record."""
        ...

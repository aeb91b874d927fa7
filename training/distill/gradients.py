"""How hard each loss turns the student: lengths of their gradients, measured from time to time.

They are logged beside each other, they prove that every term has an effect, and weights given as a ratio are made of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from training.distill.job import Processes
from training.distill.settings import DistillSettings, GradientRatio
from training.distill.teacher_terms import TermLoss
from training.errors import FitError

EVERY = 100
"""Steps between two measurements."""
EVERY_FOR_RATIOS = 25
"""The same where weights follow from them."""
NEWEST = 0.5
"""What the newest measurement counts for in a ratio; the gradient of one batch is noisy."""
TASK = 'task'


class GradientLengths:
    """Measures the gradients of a training's losses on the student.

    Args:
        settings: of the terms.
        group: the processes that train; a length is their mean, so that all weigh alike.
    """

    def __init__(self, settings: DistillSettings, group: Processes) -> None:
        self._settings, self._group = settings, group
        self._ratios = {place for place, term in enumerate(settings.terms) if isinstance(term.weight, GradientRatio)}
        self._smoothed: dict[str, list[float]] = {}
        self.newest: dict[str, float] = {}

    def measure(
        self,
        task: Tensor,
        losses: Mapping[str, TermLoss],
        parameters: Sequence[Tensor],
        step: int,
        weight_before: Callable[[int], float],
    ) -> None:
        """Measure where it is due: at a term's first step and every `EVERY` ones; `newest` is what was found.

        Args:
            task: the task's loss.
            losses: of the terms, not weighted.
            parameters: of the student that are trained.
            step: from 0.
            weight_before: of a term, by its place, at the step before.

        Raises:
            FitError: a term's gradient on all parameters is exactly 0.
        """
        every = EVERY_FOR_RATIOS if self._ratios else EVERY
        first = [name for name, loss in losses.items() if step == 0 or not weight_before(loss.pair.place)]
        due = [name for name, loss in losses.items() if loss.weight and (name in first or step % every == 0)]
        if not due:
            return
        found = [self._of_term(name, losses[name], parameters, step) for name in due]
        nothing = task.detach().new_zeros(())
        lengths = [_length(task, parameters), *(nothing if length is None else length for length in found)]
        counts = [nothing + 1, *(nothing + float(length is not None) for length in found)]
        # As many numbers in every process, though a term may find no object in one of them.
        self._group.sum([*lengths, *counts])
        self.newest = {
            f'gradient/{name}': float(length / count)
            for name, length, count in zip([TASK, *due], lengths, counts, strict=True)
            if count
        }
        for name in due:
            if f'gradient/{name}' in self.newest:
                self._note(name, self.newest[f'gradient/{TASK}'], self.newest[f'gradient/{name}'])

    def _of_term(self, name: str, loss: TermLoss, parameters: Sequence[Tensor], step: int) -> Tensor | None:
        """None where a term speaks of objects and the batch has none."""
        if loss.pair.term.of_objects and float(loss.value.detach()) == 0:
            return None
        if loss.value.requires_grad:
            length = _length(loss.value, parameters)
            if bool(length > 0) or not bool(length.isfinite()):
                return length
        raise FitError(
            f'{name} has no effect: its gradient on the student is exactly 0 at step {step + 1}. Do student and '
            'teacher already agree, is the layer frozen, or has its map one cell alone?'
        )

    def _note(self, name: str, task: float, term: float) -> None:
        before = self._smoothed.get(name, [task, term])
        self._smoothed[name] = [
            NEWEST * new + (1 - NEWEST) * old for new, old in zip((task, term), before, strict=True)
        ]

    def weighed(self, losses: Mapping[str, TermLoss]) -> dict[str, TermLoss]:
        """The losses, with the weights that ratios ask for; a term that was not measured yet counts nothing."""
        return {
            name: self._with_ratio(loss) if loss.pair.place in self._ratios else loss for name, loss in losses.items()
        }

    def _with_ratio(self, loss: TermLoss) -> TermLoss:
        task, term = self._smoothed.get(loss.pair.name, [0.0, 1.0])
        return dataclasses.replace(loss, weight=loss.weight * task / max(term, 1e-30))

    def state(self) -> dict[str, Any]:
        """What a resumed run must know."""
        return dict(self._smoothed)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`."""
        self._smoothed = {name: list(values) for name, values in state.items()}


def _length(value: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    gradients = torch.autograd.grad(value, list(parameters), retain_graph=True, allow_unused=True)
    parts = [gradient.detach().float().norm() for gradient in gradients if gradient is not None]
    return torch.stack(parts).norm() if parts else value.new_zeros(())

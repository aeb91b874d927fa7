"""A kind of step: what it needs and what it does, in one class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.run.recipe import Recipe, StageRecipe
from training.steps import Result, Step

if TYPE_CHECKING:
    from training.run.plan import Plan

WEIGHTS = 'weights.pt'


@dataclass(frozen=True)
class Work:
    """The base of all kinds.

    Attributes:
        plan: of the recipe, from which it asks for the steps before it.
        of: the set or the stage that it is about; empty where there is but one.
    """

    plan: Plan
    of: str = ''
    resumes = False
    """Whether it goes on from what it finds in its folder; otherwise it starts with an empty one."""
    together = False
    """Whether all processes of a run make it together; otherwise the first one does."""

    @property
    def name(self) -> str:
        """What people call it, `train teacher`."""
        raise NotImplementedError

    @property
    def settings(self) -> Any:
        """What its result depends on beside the steps before it."""
        raise NotImplementedError

    @property
    def needs(self) -> Sequence[Step]:
        """The steps before it."""
        raise NotImplementedError

    def make(self, folder: Path) -> Result:
        """Do it, with the files of the steps before it."""
        raise NotImplementedError

    def step(self) -> Step:
        """It as a step."""
        return Step(self.name, self.settings, tuple(self.needs), self.make, self.resumes, self.together)

    @property
    def recipe(self) -> Recipe:
        """Of the plan."""
        return self.plan.recipe

    @property
    def stage(self) -> StageRecipe:
        """The stage that it is about."""
        return self.recipe.stages[self.of]

    def known(self, steps: Mapping[str, Step]) -> dict[str, Result]:
        """The results of steps that were made."""
        return {name: self.plan.steps.known(step) for name, step in steps.items()}

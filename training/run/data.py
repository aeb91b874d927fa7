"""Steps that make pictures: labelled sets in our form, frames without labels, objects cut out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.data.crops import CropSettings, write_crops
from training.data.sources import prepare, require
from training.data.unlabelled import extract
from training.run.work import Work
from training.steps import Result, Step

TEACHER_ANSWERS = 'teacher_answers'
"""The recipe's folder for what `data.*.teacher` says, which outlasts a change of the rule that makes labels of it."""


@dataclass(frozen=True)
class Prepare(Work):
    """A labelled set in our form."""

    @property
    def name(self) -> str:
        """See Work."""
        return f'prepare {self.of}'

    @property
    def settings(self) -> Any:
        """See Work."""
        settings, data = self.recipe.data[self.of], self.plan.data
        if not self.plan.planning:
            require(settings, data / settings.path)
        source = self.plan.fingerprint(data / settings.path) if settings.path else ''
        grounds = settings.tiles.grounds if settings.tiles else ''
        beside = [data / grounds] if grounds else []
        if settings.teacher is not None:
            beside += [Path(asked.bundle) for asked in (settings.teacher, *settings.teacher.also)]
        return [settings, source, *map(self.plan.fingerprint, beside)]

    @property
    def needs(self) -> Sequence[Step]:
        """See Work."""
        return ()

    def make(self, folder: Path) -> Result:
        """See Work."""
        kept = folder.parent / TEACHER_ANSWERS
        return dict(prepare(self.recipe.data[self.of], self.plan.data, folder / 'set', kept=kept))


@dataclass(frozen=True)
class Extract(Work):
    """Pictures from a bag, a video or a folder without labels."""

    @property
    def name(self) -> str:
        """See Work."""
        return f'extract {self.of}'

    @property
    def settings(self) -> Any:
        """See Work."""
        return [self.recipe.unlabelled[self.of].frames, self.plan.fingerprint(self._source)]

    @property
    def needs(self) -> Sequence[Step]:
        """See Work."""
        return ()

    @property
    def _source(self) -> Path:
        return self.plan.data / self.recipe.unlabelled[self.of].path

    def make(self, folder: Path) -> Result:
        """See Work."""
        return {'images': extract(self._source, folder / 'set', self.recipe.unlabelled[self.of].frames)}


@dataclass(frozen=True)
class Crops(Work):
    """The objects of a labelled set as pictures to classify."""

    how: CropSettings = field(default_factory=CropSettings)

    @property
    def name(self) -> str:
        """See Work."""
        return f'crops {self.of}'

    @property
    def settings(self) -> Any:
        """See Work."""
        return self.how

    @property
    def needs(self) -> Sequence[Step]:
        """See Work."""
        return (self.plan.prepare(self.of),)

    def make(self, folder: Path) -> Result:
        """See Work."""
        return dict(write_crops(self.plan.set(self.of), folder / 'crops', self.how))

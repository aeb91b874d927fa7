"""What a cell of a recipe's study leaves behind: the arm's steps with the cell's seed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.errors import RecipeError, StudyError
from training.pipeline import Pipeline
from training.recipe import load_recipe
from training.schema import nearest
from training.stages import WEIGHTS
from training.steps import Steps


def cell_pipeline(
    recipe_file: Path, overrides: Mapping[str, Any], seed: int, out: Path, data: Path
) -> tuple[Pipeline, str]:
    """The steps of one arm with one seed, and the stage that is measured.

    Args:
        recipe_file: with a section `study`.
        overrides: what the arm sets.
        seed: of the stages that the study seeds.
        out: working files of all recipes.
        data: data root.

    Raises:
        RecipeError: the recipe has no study, or cannot be with what the arm sets.
    """
    study = load_recipe(recipe_file, overrides).study
    if study is None:
        raise RecipeError(f'{recipe_file} has no entry study')
    seeds = {f'stages.{name}.seed': seed for name in study.seeded}
    recipe = load_recipe(recipe_file, {**overrides, **seeds})
    return Pipeline(recipe, data, Steps(out / recipe.name)), study.measure or recipe.final


def cell_bundle(
    recipe_file: Path, arm: str, seed: int, out: Path, data: Path, common: Mapping[str, Any] | None = None
) -> Path:
    """The float network of a cell that was run, as a bundle; `common` is what the study set in all arms.

    Raises:
        StudyError: no such arm, or the cell was not run.
        RecipeError: as `cell_pipeline`.
    """
    pipeline, measured = _of_arm(recipe_file, arm, seed, out, data, common)
    step = pipeline.measure(measured, 'fp32')
    if pipeline.steps.result(step) is None:
        raise StudyError(
            f'the cell {arm}, seed {seed}, was not run: python -m training study paired {recipe_file} --arms {arm} '
            f'--seeds {seed}'
        )
    return pipeline.steps.folder(step) / 'bundle'


def cell_weights(
    recipe_file: Path, arm: str, stage: str, seed: int, out: Path, data: Path, common: Mapping[str, Any] | None = None
) -> Path:
    """The weights of a stage of a cell; what was not trained is trained.

    Raises:
        StudyError: no such arm or stage.
        RecipeError: as `cell_pipeline`.
        TrainingError: what the training raises.
    """
    pipeline, _ = _of_arm(recipe_file, arm, seed, out, data, common)
    known = pipeline.recipe.stages
    if stage not in known:
        raise StudyError(f'{recipe_file} has no stage {stage!r}{nearest(stage, known)}; stages are {", ".join(known)}')
    step = pipeline.weights(stage)
    pipeline.steps.made(step)
    return pipeline.steps.folder(step) / WEIGHTS


def _of_arm(
    recipe_file: Path, arm: str, seed: int, out: Path, data: Path, common: Mapping[str, Any] | None
) -> tuple[Pipeline, str]:
    study = load_recipe(recipe_file, common).study
    arms = {} if study is None else study.arms
    if arm not in arms:
        raise StudyError(f'{recipe_file} has no arm {arm!r}{nearest(arm, arms)}; arms are {", ".join(arms) or "none"}')
    return cell_pipeline(recipe_file, {**(common or {}), **arms[arm]}, seed, out, data)

"""What a cell of a recipe's study leaves behind: the arm's steps with the cell's seed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.errors import RecipeError, StudyError
from training.run.plan import Plan
from training.run.recipe import is_folder, load_recipe
from training.run.work import WEIGHTS
from training.schema import nearest
from training.steps import Step, Steps
from training.study.plan import Result, Study, kept_as


def cell_plan(recipe_file: Path, overrides: Mapping[str, Any], seed: int, out: Path, data: Path) -> tuple[Plan, str]:
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
    return Plan(recipe, data, Steps(out / recipe.name)), study.measure or recipe.final


def figures(counts: Mapping[str, Any], accuracy: Mapping[str, Any]) -> dict[str, float]:
    """What a study shows of a network, from the results of its export and its measurement."""
    per_class = {
        f'{measure} {name}': float(entry[measure])
        for name, entry in accuracy['per_class'].items()
        for measure in ('map50', 'map')
        if measure in entry
    }
    totals = {name: float(accuracy[name]) for name in ('map50', 'map')}
    return {**totals, **per_class, **{name: float(counts[name]) for name in ('parameters', 'gflops')}}


def teachers(study: Study, *, measure_files: bool) -> list[Result]:
    """The teachers of a recipe's study as results of their own, each once.

    Those that are stages were measured on the way. A weights file is measured as stages are, and that is kept, if
    `measure_files`; else it is shown only where that was done before.

    Raises:
        RecipeError: a weights file is not there any more.
    """
    found: dict[str, Result] = {}
    places = {name: Path(study.places[name]) for name in ('recipe_file', 'out', 'data')}
    for arm in study.arms.values():
        plan, _ = cell_plan(**places, overrides=arm['overrides'], seed=study.seeds[0])
        for stage in plan.recipe.stages.values():
            sources = stage.taught_by.items() if stage.classify is None else ()
            for given, source in (pair for pair in sources if not is_folder(pair[1])):
                exported, measured = _teacher_steps(plan, source)
                if measure_files:
                    plan.steps.made(measured)
                counts, accuracy = plan.steps.result(exported), plan.steps.result(measured)
                if counts is not None and accuracy is not None and (given or measured.key not in found):
                    name = _teacher_name(plan, given, source)
                    found[measured.key] = Result(name, study.seeds[0], figures(counts, accuracy))
    return list(found.values())


def _teacher_name(plan: Plan, given: str, source: str) -> str:
    """`v5 (yolov5n)`: what the recipe calls it, and the model file or weights that it comes from."""
    origin = source
    while origin in plan.recipe.stages:
        origin = plan.recipe.stages[origin].start
    path = Path(origin)
    own = path.parent.name if path.name == WEIGHTS and path.parent.name else path.stem
    name = given or (source if source in plan.recipe.stages else '')
    return f'{name} ({own})' if name else own


def _teacher_steps(plan: Plan, source: str) -> tuple[Step, Step]:
    """Export and measurement, of a weights file as of a stage."""
    if source in plan.recipe.stages:
        return plan.export(source), plan.measure(source, 'fp32')
    return plan.export_file(source), plan.measure_file(source)


def cell_bundle(
    recipe_file: Path, arm: str, seed: int, out: Path, data: Path, common: Mapping[str, Any] | None = None
) -> Path:
    """The float network of a cell that was run, as a bundle; `common` is what the study set in all arms.

    Raises:
        StudyError: no such arm, or the cell was not run.
        RecipeError: as `cell_plan`.
    """
    plan, measured = _of_arm(recipe_file, arm, seed, out, data, common)
    step = plan.measure(measured, 'fp32')
    if plan.steps.result(step) is None:
        raise StudyError(
            f'the cell {arm}, seed {seed}, was not run: python -m training study paired {recipe_file} --arms {arm} '
            f'--seeds {seed}'
        )
    return plan.steps.folder(step) / 'bundle'


def cell_weights(
    recipe_file: Path, arm: str, stage: str, seed: int, out: Path, data: Path, common: Mapping[str, Any] | None = None
) -> Path:
    """The weights of a stage of a cell; what was not trained is trained.

    Raises:
        StudyError: no such arm or stage.
        RecipeError: as `cell_plan`.
        TrainingError: what the training raises.
    """
    plan, _ = _of_arm(recipe_file, arm, seed, out, data, common)
    known = plan.recipe.stages
    if stage not in known:
        raise StudyError(f'{recipe_file} has no stage {stage!r}{nearest(stage, known)}; stages are {", ".join(known)}')
    step = plan.weights(stage)
    plan.steps.made(step)
    return plan.steps.folder(step) / WEIGHTS


def _of_arm(
    recipe_file: Path, arm: str, seed: int, out: Path, data: Path, common: Mapping[str, Any] | None
) -> tuple[Plan, str]:
    study = load_recipe(recipe_file, common).study
    arms = {} if study is None else study.arms
    if arm not in arms:
        raise StudyError(f'{recipe_file} has no arm {arm!r}{nearest(arm, arms)}; arms are {", ".join(arms) or "none"}')
    return cell_plan(recipe_file, {**(common or {}), **arms[arm]}, seed, out, data)


def run_cell(
    recipe_file: str, overrides: Mapping[str, Any], seed: int, out: str, data: str, threads: int
) -> dict[str, float]:
    """One arm of a study with one seed: the job of `python -m training study paired`.

    Returns:
        Accuracy of the measured stage in FP32, its parameters and GFLOPs.
    """
    import cv2
    import torch

    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    plan, measured = cell_plan(Path(recipe_file), overrides, seed, Path(out), Path(data))
    counts = plan.steps.made(plan.export(measured))
    metrics = plan.steps.made(plan.measure(measured, 'fp32'))
    return figures(counts, metrics)


kept_as(run_cell, 'training.stages:run_cell')

"""A recipe's YAML document before it is checked: read, changed from outside, the names of weights files resolved."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from training.errors import RecipeError
from training.schema import nearest

MAX_BYTES = 1 << 20
WEIGHTS_FILES = ('.pt', '.pth', '.safetensors', '.weights', '.137')
"""How weights files end: ours and Ultralytics', backbones of torchvision and timm, Darknet's whole networks and first layers."""


def read_document(file: Path) -> dict[str, Any]:
    """A recipe as plain values, not checked yet."""
    try:
        if file.stat().st_size > MAX_BYTES:
            raise RecipeError(f'{file} is larger than any recipe, {MAX_BYTES} bytes')
        document = yaml.safe_load(file.read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise RecipeError(f'{file} cannot be read: {error}') from error
    if not isinstance(document, dict):
        raise RecipeError(f'{file} is not a mapping')
    return document


def rehearsal(file: Path) -> dict[str, Any]:
    """What a recipe's entry `rehearsal` sets, `{stages.teacher.fit.steps: 9}`: the same steps at a size that takes a minute.

    Its name ends with `_rehearsal`, so that it leaves the files of the whole recipe alone.

    Raises:
        RecipeError: the recipe has no such entry.
    """
    document = read_document(file)
    changes = document.get('rehearsal')
    if not isinstance(changes, Mapping):
        raise RecipeError(
            f'{file} has no entry rehearsal, which would say what to set: {{stages.teacher.fit.steps: 9}}'
        )
    return {'name': f'{document.get("name", file.stem)}_rehearsal', **changes}


def with_weights(document: Mapping[str, Any]) -> dict[str, Any]:
    """What a recipe holds, with the files of its entry `weights` in place of their names, `weights.v8`, in stages and in arms.

    A recipe that names a file so is the same to the last hash as one that repeats its path, and `--set weights.v8=mine.pt`
    gives another file to all stages and arms at once.

    Raises:
        RecipeError: no mapping of names to weights files, or a name that is not in it.
    """
    files = document.get('weights', {})
    if not isinstance(files, Mapping) or not all(str(file).endswith(WEIGHTS_FILES) for file in files.values()):
        raise RecipeError('weights names weights files (.pt, .weights): {large: networks/large.pt}')
    return {
        name: _with_files(value, files) if name in ('stages', 'study') else value
        for name, value in document.items()
        if name not in ('weights', 'rehearsal')
    }


def _with_files(value: Any, files: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        return {name: _with_files(item, files) for name, item in value.items()}
    if isinstance(value, list):
        return [_with_files(item, files) for item in value]
    named = _WEIGHTS_NAME.fullmatch(value) if isinstance(value, str) else None
    if named is None:
        return value
    if named[1] not in files:
        raise RecipeError(
            f'there is no {value}{nearest(named[1], files)}; weights has {", ".join(files) or "no entry"}'
        )
    return files[named[1]]


_WEIGHTS_NAME = re.compile(r'weights\.(?!pt$)(\w+)')
"""`weights.v8`, but not the file weights.pt."""


SHARES = ('ratio', 'cut_parameters', 'cut_gflops')


def with_iterations(stages: Mapping[str, Any]) -> dict[str, Any]:
    """Stages that prune in several steps, each as a chain: prune a part, tune, prune the next part, tune.

    `slim: {start: s, prune: {ratio: 0.5, steps: 2}, tune: {…}}` becomes `slim_prune1`, `slim_tune1`, `slim_prune2` and
    `slim`. Each step removes the same share of what is left, 1 − (1 − ratio)^(1/steps), so that all together remove the ratio.

    Raises:
        RecipeError: steps without tune or the other way round, or a target that cannot be divided.
    """
    chain: dict[str, Any] = {}
    for name, stage in stages.items():
        prune = stage.get('prune') if isinstance(stage, dict) else None
        steps = prune.get('steps') if isinstance(prune, dict) else None
        if steps is None:
            if isinstance(stage, dict) and 'tune' in stage:
                raise RecipeError(
                    f'stages.{name}: tune trains between steps of pruning: prune: {{ratio: 0.5, steps: 3}}'
                )
            chain[name] = stage
            continue
        assert isinstance(prune, dict)
        tune = stage.get('tune')
        shares = {key: prune[key] for key in SHARES if isinstance(prune.get(key), (int, float))}
        if not isinstance(steps, int) or isinstance(steps, bool) or not 1 <= steps <= 100:
            raise RecipeError(f'stages.{name}.prune.steps must be from 1 to 100, not {steps!r}')
        if not isinstance(tune, dict) or not shares:
            raise RecipeError(
                f'stages.{name}: prune.steps needs tune, how the network is trained after each, and one of {", ".join(SHARES)}'
            )
        own = {key: value for key, value in prune.items() if key != 'steps'}
        own |= {key: round(1 - (1 - share) ** (1 / steps), 6) for key, share in shares.items()}
        before = stage.get('start')
        for step in range(1, steps + 1):
            last = name if step == steps else f'{name}_tune{step}'
            rest = {key: value for key, value in stage.items() if key not in ('prune', 'tune')}
            chain[f'{name}_prune{step}'] = {**rest, 'start': before, 'prune': copy.deepcopy(own)}
            chain[last] = {**copy.deepcopy(tune), 'start': f'{name}_prune{step}'}
            before = last
    return chain


def override(document: dict[str, Any], name: str, value: Any) -> None:
    """Set the entry of that dotted name, `stages.distilled.distill.terms.0.weight`; None takes it out.

    Raises:
        RecipeError: the name leads through something that has no entries.
    """
    *parents, last = name.split('.')
    place: Any = document
    for part in parents:
        place = place.setdefault(part, {}) if isinstance(place, dict) else _item(place, part, name)
    if isinstance(place, dict):
        if value is None:
            place.pop(last, None)
        else:
            place[last] = copy.deepcopy(value)
    else:
        _item(place, last, name)
        place[int(last)] = copy.deepcopy(value)


def _item(place: Any, part: str, name: str) -> Any:
    if not isinstance(place, list) or not part.isdecimal() or int(part) >= len(place):
        raise RecipeError(f'{name}: nothing to set at {part!r}')
    return place[int(part)]


def parse_overrides(texts: Sequence[str]) -> dict[str, Any]:
    """`['stages.teacher.fit.epochs=3']` → names and YAML values.

    Raises:
        RecipeError: not `name=value`, or no YAML.
    """
    values = {}
    for text in texts:
        name, equals, value = text.partition('=')
        if not equals or not name:
            raise RecipeError(f'--set {text!r} is not name=value, for example --set stages.teacher.fit.epochs=3')
        try:
            values[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise RecipeError(f'--set {text!r}: {error}') from error
    return values


def merged(common: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """`own` laid over `common`, mappings within mappings likewise; epochs and steps stand for each other."""
    result = dict(copy.deepcopy(common))
    if {'epochs', 'steps'} & own.keys():
        result = {name: value for name, value in result.items() if name not in ('epochs', 'steps')}
    for name, value in own.items():
        both = isinstance(value, Mapping) and isinstance(result.get(name), Mapping)
        result[name] = merged(result[name], value) if both else copy.deepcopy(value)
    return result

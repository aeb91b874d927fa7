"""From the source's class names to the classes that are learnt, and to the regions in which nobody is judged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import yaml

from kd_perception.bags.ground_truth import IGNORED, AnnotatedObject, GroundTruth
from kd_perception.detection.detections import Detections
from training.data.dataset import LabeledImage, ground_truth
from training.errors import DataError
from training.schema import nearest

VRU = ('pedestrian', 'rider', 'bicycle', 'motorcycle')
"""Vulnerable road users, in BDD100K's names."""
PRESETS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {'vru': (VRU, ('other person',))}
"""Name: the classes, and what is ignored besides; in a set of road users an unclear person is not background."""
MIN_SIDE = 1.0
"""A box of which less than this is left inside the picture, in pixels along either side, is no object."""


@dataclass(frozen=True)
class ClassRules:
    """What becomes of the source's names.

    Attributes:
        classes: learnt, in the order of their ids.
        targets: by the source's name, in lower case: a class, or `ignore`. What is not in here is background.
    """

    classes: tuple[str, ...]
    targets: Mapping[str, str]

    def target(self, entry: AnnotatedObject) -> str | None:
        """The class or `ignore`; None for background."""
        return IGNORED if entry.class_name == IGNORED else self.targets.get(entry.class_name.casefold())

    def truth(self, objects: Sequence[AnnotatedObject], width: int, height: int) -> GroundTruth:
        """Objects, crowds and ignored regions, cut to a picture of `width` × `height` pixels; slivers are dropped."""
        known = [(entry, target) for entry in objects if (target := self.target(entry)) is not None]
        boxes = np.array([entry.box for entry, _ in known], np.float64).reshape(-1, 4)
        finite = np.isfinite(boxes).all(axis=1)
        boxes = np.clip(boxes, 0, [width, height, width, height])
        kept = finite & (boxes[:, 2:] - boxes[:, :2] >= MIN_SIDE).all(axis=1)
        ignored = np.array([target == IGNORED for _, target in known], np.bool_)
        ids = np.array([-1 if target == IGNORED else self.classes.index(target) for _, target in known], np.int32)
        crowd = np.array([entry.crowd for entry, _ in known], np.bool_)
        real = kept & ~ignored
        found: Detections = ground_truth(boxes[real], ids[real])
        return GroundTruth(found, crowd[real], boxes[kept & ignored].astype(np.float32))


def spelled_out(classes: Sequence[str]) -> tuple[Sequence[str], Sequence[str] | None]:
    """The classes that a preset's name stands for, and what it ignores; others as they are, with None."""
    return PRESETS[classes[0]] if len(classes) == 1 and classes[0] in PRESETS else (classes, None)


def class_rules(
    names: Sequence[str],
    ignored: Sequence[str] = (),
    dropped: Sequence[str] = (),
    *,
    classes: Sequence[str] = (),
    class_map: Mapping[str, str] | None = None,
    ignored_instead: Sequence[str] | None = None,
) -> ClassRules:
    """Combine what the source says with what the user wants.

    Args:
        names: the source's classes in the order of their ids.
        ignored: names that the source's rules ignore.
        dropped: names that are background by the source's rules.
        classes: the user's classes in the order of their ids, or the name of one preset; all of the source if empty.
        class_map: the user's class, or `ignore`, by the source's name.
        ignored_instead: the user's own list in the place of `ignored`.

    Raises:
        DataError: a name that neither the source nor the map has; the nearest is offered.
    """
    everything = [*names, *ignored, *dropped]
    classes, of_preset = spelled_out(classes)
    if of_preset is not None:
        ignored = of_preset
    if ignored_instead is not None:
        ignored = ignored_instead
    for wanted, where in ((ignored, 'to ignore'), (class_map or {}, 'in the class map')):
        _refuse_unknown(wanted, everything, where)
    targets = {name.casefold(): name for name in reversed(everything)}
    targets |= {name.casefold(): IGNORED for name in ignored}
    targets |= {name.casefold(): target for name, target in (class_map or {}).items()}
    by_default = [targets[name.casefold()] for name in names] + list((class_map or {}).values())
    known = [target for target in dict.fromkeys([*by_default, *targets.values()]) if target != IGNORED]
    _refuse_unknown(classes, known, 'among the classes')
    learnt = _spelled_as_known(classes, known) or tuple(name for name in dict.fromkeys(by_default) if name != IGNORED)
    if not learnt:
        raise DataError('no class is left to learn; see the class map and what is ignored')
    return ClassRules(learnt, {name: target for name, target in targets.items() if target in (*learnt, IGNORED)})


def reclassed(items: Iterable[LabeledImage], names: Sequence[str], rules: ClassRules) -> Iterator[LabeledImage]:
    """Pictures whose class ids count `names`, with those of the rules; ignored ones become regions, the others background."""
    targets = [rules.targets.get(name.casefold()) for name in names]
    ids = np.array([rules.classes.index(t) if t is not None and t != IGNORED else -1 for t in targets], np.int32)
    ignored = np.array([target == IGNORED for target in targets])
    for item in items:
        objects = item.objects
        if not len(objects):
            yield item
            continue
        new, regions = ids[objects.class_ids], objects.boxes[ignored[objects.class_ids]]
        kept = ground_truth(objects.boxes[new >= 0], new[new >= 0])
        yield replace(item, objects=kept, ignored=np.concatenate([item.ignored, regions]))


def read_class_map(words: Sequence[str]) -> dict[str, str]:
    """`van=car` pairs, or the name of a YAML file of `van: car` lines; both may be mixed.

    Raises:
        DataError: neither.
    """
    found: dict[str, str] = {}
    for word in words:
        name, equals, target = word.partition('=')
        if equals:
            found[name.strip()] = target.strip()
            continue
        try:
            content = yaml.safe_load(Path(word).read_text(encoding='utf-8'))
        except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
            raise DataError(f'the class map {word} is neither a pair "van=car" nor a file of them: {error}') from error
        if not isinstance(content, dict) or not all(isinstance(target, str) for target in content.values()):
            raise DataError(f'the class map {word} must hold lines "van: car"')
        found |= {str(name): target for name, target in content.items()}
    return found


def _refuse_unknown(wanted: Iterable[str], known: Sequence[str], where: str) -> None:
    there = {name.casefold() for name in known}
    for name in wanted:
        if name.casefold() not in there:
            raise DataError(
                f'{name!r} {where} is no class of the data{nearest(name, known)}; it has {", ".join(known)}'
            )


def _spelled_as_known(wanted: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    spelling = {name.casefold(): name for name in known}
    return tuple(spelling[name.casefold()] for name in wanted)

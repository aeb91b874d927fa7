"""Which family a foreign network is of: by what its file states, then by what its outputs hold; what stays open is refused."""

from __future__ import annotations

from dataclasses import replace

from kd_perception.bundles.foreign import end2end, fastestdet, nanodet, pairs, table, yolox
from kd_perception.bundles.foreign.family import Proposal, Seen
from kd_perception.bundles.foreign.options import AUTO, LAYOUTS
from kd_perception.errors import BundleError

FAMILIES = (table, end2end, pairs, yolox, nanodet, fastestdet)
"""All that are known; adding one is one new file and one entry here."""

_COCO_COLUMNS = (80, 84, 85)
_MASKS = 32


def read(seen: Seen) -> Proposal:
    """The one reading of the outputs that file and values allow.

    Raises:
        BundleError: none, or several; says what the file is, and what to pass.
    """
    if not seen.class_counts:
        raise BundleError(_unnamed(seen))
    _check_count(seen)
    proposals, wanted = _proposals(seen), seen.options.layout
    if not proposals:
        raise BundleError(_unknown(seen))
    possible = [proposal for proposal in proposals if not proposal.faults]
    if not possible:
        raise BundleError(_contradicted(seen, proposals))
    chosen = _likeliest(possible)
    if len({proposal.layout for proposal in chosen}) > 1:
        raise BundleError(_ambiguous(seen, chosen))
    if not chosen[0].evidence and not chosen[0].stated and wanted == AUTO:
        raise BundleError(_empty(seen, chosen[0]))
    return chosen[0]


def _proposals(seen: Seen) -> list[Proposal]:
    """All readings that the shapes allow, of the layout that the user names."""
    wanted = seen.options.layout
    found = [proposal for family in FAMILIES for proposal in family.propose(seen)]
    return [proposal for proposal in found if wanted in (AUTO, proposal.layout)]


def _check_count(seen: Seen) -> None:
    """The user's names must be as many as the file's, unless those are wrong: no reading fits them."""
    given, stated = seen.options.classes, seen.stated.class_counts
    if not given or not stated or len(given) in stated:
        return
    by_file = replace(seen, options=replace(seen.options, classes=()))
    if any(not proposal.faults for proposal in _proposals(by_file)):
        raise BundleError(
            f'--classes names {len(given)}, and the file itself names {stated[0]}. Are the classes complete? '
            'Pass all of them, or none'
        )


def _likeliest(possible: list[Proposal]) -> list[Proposal]:
    """Of several readings those that the values speak for most, then those that the file states."""
    most = max(proposal.evidence for proposal in possible)
    possible = [proposal for proposal in possible if proposal.evidence == most]
    return [proposal for proposal in possible if proposal.stated] or possible


def _unnamed(seen: Seen) -> str:
    other = _other_task(seen)
    if other:
        return f'its outputs are {seen.described()}: {other}'
    sizes = {size for name in seen.outputs for size in seen.shape(name)}
    hint = ', or --classes coco if it knows the 80 classes of COCO' if sizes & set(_COCO_COLUMNS) else ''
    return (
        f'the file does not name its classes: pass --classes car,truck,… or a file with one name a line{hint} '
        f'(its outputs: {seen.described()})'
    )


def _contradicted(seen: Seen, proposals: list[Proposal]) -> str:
    readings = '; '.join(f'read as {p.what}: {", ".join(p.faults)}' for p in proposals[:3])
    return f'its outputs ({seen.described()}) fit in shape, and their values contradict. {readings}'


def _ambiguous(seen: Seen, chosen: list[Proposal]) -> str:
    readings = '; '.join(f'--layout {p.layout}: {p.what}' for p in chosen)
    return (
        f'its outputs ({seen.described()}) can be read in several ways, and the pictures do not decide: pass --picture with a '
        f'photograph of what it detects, or one of {readings}'
    )


def _empty(seen: Seen, chosen: Proposal) -> str:
    return (
        f'its outputs ({seen.described()}) hold nothing on the pictures that could tell what they are: pass --picture with a '
        f'photograph of what it detects, or --layout {chosen.layout} to take them for {chosen.what}'
    )


def _unknown(seen: Seen) -> str:
    """What the outputs may be where no family has such shapes."""
    counts = ' or '.join(map(str, seen.class_counts))
    given = f'its outputs are {seen.described()}, with {counts} class name{"s" if counts != "1" else ""}: '
    wanted = seen.options.layout
    if wanted != AUTO:
        return f'--layout {wanted} does not fit: {given}no such outputs'
    return given + (_other_task(seen) or _other_count(seen) or _raw(seen) or _expected())


def _other_task(seen: Seen) -> str:
    shapes = [seen.shape(name) for name in seen.outputs]
    maps = [shape for shape in shapes if len(shape) == 4]
    tables = [shape for shape in shapes if len(shape) == 3]
    if len(tables) == 1 and len(maps) == 1 and maps[0][1] == _MASKS:
        return 'that is a segmentation network (boxes and masks). Export a detection network of the same family'
    if all(len(shape) == 2 and shape[0] == 1 for shape in shapes):
        return 'that is a classification network: it says what is in a picture, not where. Export a detector'
    if len(maps) == len(shapes) == 1 and maps[0][2] * 4 >= seen.size[1] and maps[0][3] * 4 >= seen.size[0]:
        return 'that is a map of the whole picture (semantic segmentation, depth, heat maps), not a list of boxes'
    columns = {min(shape[1:]) for shape in tables}
    for count in seen.class_counts:
        for found in columns:
            if found in (4 + count + 3 * 17, 6 + 3 * 17) or (count == 1 and found > 8 and (found - 5) % 3 == 0):
                return f'{found} columns are those of a pose network (keypoints). Export a detection network'
            if found == 4 + count + _MASKS:
                return f'{found} columns are those of a segmentation network ({_MASKS} of masks). Export a detection network'
            if found == 5 + count or found == 7:
                return (
                    f'{found} columns may be those of oriented boxes (OBB, with an angle). Export a detection network'
                )
    return ''


def _other_count(seen: Seen) -> str:
    """A table of boxes whose columns name other classes than the user or the file."""
    for name in seen.outputs:
        shape = seen.shape(name)
        if len(shape) == 3 and shape[0] == 1 and 5 <= min(shape[1:]) <= 1005 and max(shape[1:]) > min(shape[1:]):
            columns = min(shape[1:])
            hint = ' (--classes coco?)' if columns in _COCO_COLUMNS else ''
            return (
                f'{columns} columns would be 4 of a box and {columns - 4} classes, or {columns - 5} with objectness. '
                f'Are the classes complete? Pass all of their names with --classes{hint}'
            )
    return ''


def _raw(seen: Seen) -> str:
    shapes = [seen.shape(name) for name in seen.outputs]
    if len(shapes) > 1 and all(len(shape) in (4, 5) for shape in shapes):
        return (
            'those are raw heads whose anchors are not in the file. Export with the decoding in the graph (YOLOv7: --grid; '
            'YOLOv5: export.py without --train; Darknet and YOLOv4: a conversion that gives boxes and scores)'
        )
    return ''


def _expected() -> str:
    return (
        f'none of the layouts that are known ({", ".join(LAYOUTS)}) has such shapes; docs/bundle.md lists the networks that can '
        'be imported. Are the classes complete?'
    )

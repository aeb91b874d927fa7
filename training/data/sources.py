"""One function for all formats: `prepare` writes a source in our form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from training.data import aerial_traffic, bdd100k, boxes_csv, coco, dtld, fashion_scenes, scenes, visdrone, yolo_layout
from training.data.aerial_traffic import TileSettings
from training.data.class_rules import ClassRules, class_rules, spelled_out
from training.data.conversion import ConversionSettings, convert
from training.data.fashion_scenes import FashionSceneSettings
from training.data.picture import Level, Picture, Source, grouped, picture_of_file
from training.data.scenes import SceneSetSettings
from training.data.splits import WAYS, assign_splits
from training.data.straightening import straightened
from training.data.teacher_labels import TeacherLabels, mended
from training.data.tiling import GridSettings
from training.data.unlabelled import UnlabelledSettings, extract, extracted
from training.errors import DataError
from training.ranges import COUNT, Range, one_of
from training.schema import added


@dataclass(frozen=True)
class SourceSettings:
    """A source of training data.

    Attributes:
        format: dtld, bdd100k, visdrone, coco, csv, yolo; scenes for synthetic frames; aerial_traffic for the photographs of
            that name, of which tiles are drawn at random scales; fashion_scenes for scenes of Fashion-MNIST's garments;
            frames for a bag, a video or a folder of pictures without labels, which `teacher` labels, all for training.
        path: folder of the data set, relative to the data root; not for scenes.
        classes: the classes to learn in the order of their ids, or one preset, `vru`; all of the source if empty.
        class_map: class to learn, or `ignore`, by the source's name.
        ignored: the source's names whose objects become regions in which nobody is judged; by the format's rules if None.
        split_by: `source` keeps the source's splits and takes val from train, by sessions, only where there is none;
            `session` draws train and val anew.
        session_pattern: regular expression that finds a picture's session in its name; the format's own rule if empty.
        val_share: share of the pictures that validation gets where it is drawn; 0 for no validation.
        seed: of that draw.
        grid: cut pictures into tiles of a grid.
        tiles: how the random tiles of aerial_traffic are drawn.
        scenes: how many frames are drawn, and which; validation gets `val_share` of their number besides.
        fashion: how the scenes of fashion_scenes are drawn.
        frames: which frames of the format frames are taken.
        inclusive: BDD100K's x2 and y2 belong to the box, as in its COCO export.
        every: of videos every so many frames are taken.
        link: hard links instead of copies.
        skip_broken: leave out broken pictures and boxes instead of refusing the source.
        teacher: a detector's word on the pictures of the train split, merged with their labels; see `teacher_labels`.
        straighten: set pictures of the train split upright that the export turned and sheared; see `straightening`.
    """

    format: str
    path: str = ''
    classes: tuple[str, ...] = ()
    class_map: Mapping[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] | None = None
    split_by: str = 'source'
    session_pattern: str = ''
    val_share: float = 0.2
    seed: int = 0
    grid: GridSettings | None = None
    tiles: TileSettings | None = None
    scenes: SceneSetSettings | None = None
    fashion: FashionSceneSettings | None = added(None)  # noqa: RUF009 (frozen)
    inclusive: bool = False
    every: int = 1
    link: bool = False
    skip_broken: bool = False
    teacher: TeacherLabels | None = added(None)  # noqa: RUF009 (frozen)
    straighten: bool = added(False)
    frames: UnlabelledSettings | None = added(None)  # noqa: RUF009 (frozen)

    def __post_init__(self) -> None:
        one_of(FORMATS, format=self.format)
        one_of(WAYS, split_by=self.split_by)
        Range(least=0, below=1).check(val_share=self.val_share)
        COUNT.check(every=self.every)
        if not self.path and self.format != 'scenes':
            raise ValueError(f'the format {self.format} needs the path of the data set')
        if self.format in DRAWN and (self.ignored or self.grid or self.session_pattern):
            raise ValueError(f'the format {self.format} takes no ignored, grid, session_pattern')
        if self.format == 'fashion_scenes' and (self.classes or self.class_map):
            raise ValueError(f'the format {self.format} takes no classes, class_map')
        if self.format in DRAWN and self.teacher is not None:
            raise ValueError(f'the format {self.format} is drawn with all its labels: it takes no teacher')
        if self.format in DRAWN and self.straighten:
            raise ValueError(f'the format {self.format} is not turned: it takes no straighten')
        if self.format == FRAMES and (self.teacher is None or self.teacher.unlabelled != 'teach'):
            raise ValueError(
                'frames have no labels: give a teacher (--teacher BUNDLE; in a recipe `teacher` with `unlabelled: teach`)'
            )
        if self.format == FRAMES and (
            self.ignored or self.session_pattern or self.straighten or self.split_by != 'source'
        ):
            raise ValueError(f'the format {self.format} takes no ignored, session_pattern, straighten, split_by')
        for name, owner in OWNERS.items():
            if getattr(self, name) is not None and self.format != owner:
                raise ValueError(f'{name} goes with the format {owner}, not with {self.format}')


READERS: Mapping[str, Callable[[Path, SourceSettings], Source]] = {
    'dtld': lambda folder, settings: dtld.read(folder),
    'bdd100k': lambda folder, settings: bdd100k.read(folder, inclusive=settings.inclusive),
    'visdrone': lambda folder, settings: visdrone.read(folder),
    'coco': lambda folder, settings: coco.read(folder),
    'csv': lambda folder, settings: boxes_csv.read(folder, every=settings.every),
    'yolo': lambda folder, settings: yolo_layout.read(folder),
}
DRAWN = ('scenes', 'aerial_traffic', 'fashion_scenes')
"""Formats whose pictures are drawn anew; they have classes of their own."""
FRAMES = 'frames'
FORMATS = (*READERS, *DRAWN, FRAMES)
OWNERS = {'tiles': 'aerial_traffic', 'scenes': 'scenes', 'fashion': 'fashion_scenes', 'frames': FRAMES}
"""The format that each section of settings belongs to."""


def prepare(
    settings: SourceSettings,
    data_root: Path,
    target: Path,
    report: Callable[[str], object] = lambda line: None,
    kept: Path | None = None,
) -> dict[str, int]:
    """Write a source in our form (`training.data.dataset`). An interrupted run goes on or starts clean when repeated.

    Args:
        settings: what and how.
        data_root: folder that `settings.path` is relative to.
        target: folder of the prepared data set.
        report: is given lines for people: what is odd in the source, and by split what became of its pictures and boxes.
        kept: folder where a teacher's answers are kept; None: beside the target.

    Returns:
        Number of images by split, and `left_out` for formats with annotations: those that are no objects to learn.

    Raises:
        DataError: the source is not of the format, or broken; see `convert`.
    """
    folder = data_root / settings.path
    _refuse_overlap(folder, target, settings)
    if settings.format == 'fashion_scenes':
        return fashion_scenes.prepare(folder, target, settings.fashion or FashionSceneSettings())
    if settings.format in DRAWN:
        rules = class_rules(aerial_traffic.CLASSES, classes=settings.classes, class_map=settings.class_map)
        if settings.format == 'scenes':
            return scenes.prepare_splits(target, settings.scenes or SceneSetSettings(), settings.val_share, rules)
        return aerial_traffic.prepare(folder, target, settings.tiles or TileSettings(), rules, data_root)
    source = _frames(settings, folder, target) if settings.format == FRAMES else read_source(settings, folder)
    severe = [problem for problem in source.problems if problem.level == Level.BROKEN]
    if severe and not settings.skip_broken:
        raise DataError(
            f'{len(severe)} annotations of {folder} are broken, the first: {severe[0]}\n'
            '--check lists all; --skip-broken leaves them out'
        )
    if settings.straighten:
        source = straightened(source)
    if settings.teacher is not None:
        learnt, _ = spelled_out(settings.classes)
        source = mended(source, settings.teacher, target.parent if kept is None else kept, learnt)
    how = ConversionSettings(
        rules_for(settings, source),
        settings.grid,
        settings.link,
        settings.skip_broken,
        paint_ignored=settings.teacher is not None,
    )
    for (kind, level), problems in grouped(source.problems).items():
        report(f'{level.name.lower()}: {kind}: {len(problems)}, e.g. {problems[0]}')
    return convert(source.pictures, target, how, report)


def _frames(settings: SourceSettings, source: Path, target: Path) -> Source:
    """The frames of a bag, a video or a folder, written beside the target."""
    if not source.exists():
        raise DataError(f'{source} does not exist; give a bag, a video or a folder of pictures')
    place = target.with_name(f'{target.name}_frames')
    extract(source, place, settings.frames or UnlabelledSettings())
    files = extracted(source, place)
    pictures = [picture_of_file(file, file.name, (), session=source.stem, split='train') for file in files]
    return Source(tuple(pictures), ())


def require(settings: SourceSettings, folder: Path) -> None:
    """Raise DataError, saying what to install, where a source that everybody installs alike is not there."""
    if settings.format == 'fashion_scenes':
        fashion_scenes.require_items(folder)


def read_source(settings: SourceSettings, folder: Path) -> Source:
    """The pictures of a source with their splits.

    Raises:
        DataError: it is not of the format.
    """
    if not folder.is_dir():
        raise DataError(f'{folder} is no folder; give the folder of the data set')
    source = READERS[settings.format](folder, settings)
    pictures: tuple[Picture, ...] = assign_splits(
        source.pictures,
        split_by=settings.split_by,
        session_pattern=settings.session_pattern,
        val_share=settings.val_share,
        seed=settings.seed,
    )
    return replace(source, pictures=pictures)


def rules_for(settings: SourceSettings, source: Source) -> ClassRules:
    """What becomes of the source's classes. Raises DataError for names that it does not have."""
    return class_rules(
        source.classes,
        source.ignored,
        source.dropped,
        classes=settings.classes,
        class_map=settings.class_map,
        ignored_instead=settings.ignored,
    )


def _refuse_overlap(folder: Path, target: Path, settings: SourceSettings) -> None:
    if settings.path and target.resolve() in (folder.resolve(), *folder.resolve().parents):
        raise DataError(f'{target} is the source or holds it; give another folder to write to')

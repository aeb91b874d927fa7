"""A bundle as a teacher: any detector, by what it detects, through the runtime."""

import cv2
import numpy as np
import pytest

torch = pytest.importorskip('torch')
pytest.importorskip('onnxruntime')

from networks import CELL, make_bundle  # noqa: E402
from tiny_training import CLASSES, SIZE, architecture, columns  # noqa: E402

from training.distill.bundle_teacher import BundleTeacher, class_places  # noqa: E402
from training.distill.outputs import QUERIES  # noqa: E402
from training.distill.settings import DistillSettings, TermSettings  # noqa: E402
from training.errors import FitError, LossError  # noqa: E402
from training.fit.detector import fit_detector  # noqa: E402
from training.fit.job import FitJob  # noqa: E402
from training.fit.settings import FitSettings  # noqa: E402
from training.models.weights import load_network  # noqa: E402

MAP = {'bright': 'tall', 'blue': 'wide'}
SETTINGS = FitSettings(image_size=SIZE, batch=4, steps=2, warmup_steps=0, precision='float32', ema_decay=0.0)


@pytest.fixture(scope='module')
def bundle(tmp_path_factory):
    """Detects bright and blue cells of 16 pixels."""
    folder = tmp_path_factory.mktemp('bundle') / 'bright_cells'
    make_bundle(folder)
    return folder


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    """White cells on black, one a picture, with labels."""
    folder = tmp_path_factory.mktemp('pictures')
    for kind in ('images', 'labels'):
        (folder / kind).mkdir()
    for number in range(4):
        image = np.zeros((SIZE, SIZE, 3), np.uint8)
        image[:CELL, CELL * number : CELL * (number + 1)] = 255
        cv2.imwrite(str(folder / f'images/{number}.png'), image)
        center = (number + 0.5) * CELL / SIZE
        (folder / f'labels/{number}.txt').write_text(f'1 {center} 0.125 0.25 0.25\n')
    return sorted((folder / 'images').iterdir())


def job(pictures, bundle, *terms, **settings):
    given = {'class_map': MAP, **settings}
    distill = DistillSettings(terms or (TermSettings('query_targets'),), **given)
    return FitJob(architecture(), CLASSES, pictures, SETTINGS, teacher=bundle, distill=distill)


def test_it_says_where_it_sees_what_in_the_students_classes(bundle):
    images = torch.zeros(2, 3, SIZE, SIZE)
    images[0, :, :CELL, CELL : 2 * CELL] = 1.0  # white
    images[1, 2, CELL : 2 * CELL, :CELL] = 1.0  # blue, in RGB
    branch = BundleTeacher(bundle, CLASSES, MAP)(images).branches[QUERIES]
    scores = branch['scores'].sigmoid()
    assert scores.shape == (2, 2, 100)
    for image, (name, box) in enumerate((('tall', [CELL, 0, 2 * CELL, CELL]), ('wide', [0, CELL, CELL, 2 * CELL]))):
        best = int(scores[image].amax(0).argmax())
        assert int(scores[image, :, best].argmax()) == CLASSES.index(name)
        assert branch['boxes'][image, :, best].tolist() == pytest.approx([side / SIZE for side in box], abs=0.01)
        assert float(scores[image, :, best].max()) > 0.99
    assert int((scores > 0.5).sum()) == 2


def test_a_student_learns_from_it_and_what_it_said_is_kept(bundle, pictures, tmp_path):
    result = fit_detector(job(pictures, bundle, cache=True), tmp_path / 'first')
    log = columns(result.log)
    assert all(float(value) > 0 for value in log['query_targets'])
    assert float(log['gradient/query_targets'][0]) > 0
    assert list((tmp_path / 'first/answers').rglob('head/*'))
    answers = tmp_path / 'first/answers'
    of_kept = FitJob(**{**vars(job(pictures, bundle, cache=True)), 'answers': answers})
    again = fit_detector(of_kept, tmp_path / 'second')
    assert result.weights.read_bytes() == again.weights.read_bytes()
    assert load_network(result.weights)[1] == CLASSES


def test_only_what_needs_no_layers_can_be_learned_from_it(bundle, pictures, tmp_path):
    for term in (TermSettings('cwd'), TermSettings('bckd'), TermSettings('ld')):
        with pytest.raises(LossError):
            fit_detector(job(pictures, bundle, term), tmp_path / term.loss)
    with pytest.raises(LossError, match='layers are out of reach'):
        fit_detector(
            job(pictures, bundle, TermSettings('cwd', student_layers=(4,), teacher_layers=(4,))), tmp_path / 'layers'
        )
    with pytest.raises(FitError, match='needs a network of weights'):
        fit_detector(job(pictures, bundle, teacher_control='random'), tmp_path / 'random')


def test_a_bundle_that_changes_meanwhile_is_noticed(tmp_path):
    make_bundle(tmp_path / 'bundle')
    teacher = BundleTeacher(tmp_path / 'bundle', ('blue',), {})
    teacher.check_unchanged()
    (tmp_path / 'bundle/notes.txt').write_text('altered')
    with pytest.raises(FitError, match='changed during the training'):
        teacher.check_unchanged()


@pytest.mark.parametrize(
    ('own', 'wanted', 'class_map', 'places'),
    [
        (('car', 'bus'), ('bus', 'car'), {}, [1, 0]),
        (('car', 'van', 'person'), ('vehicle',), {'car': 'vehicle', 'van': 'vehicle'}, [0, 0, -1]),
        (('bus', 'person'), ('bus',), {}, [0, -1]),
    ],
)
def test_classes_are_mapped_by_name(own, wanted, class_map, places):
    assert class_places(own, wanted, class_map).tolist() == places


@pytest.mark.parametrize(
    ('class_map', 'says'),
    [
        ({}, 'no class in common.*class_map: {car: vehicle}'),
        ({'cat': 'vehicle'}, "class_map names 'cat'.*did you mean 'car'"),
        ({'car': 'vehicles'}, "did you mean 'vehicle'"),
    ],
)
def test_a_map_that_leads_nowhere_is_refused(class_map, says):
    with pytest.raises(FitError, match=says):
        class_places(('car',), ('vehicle',), class_map)

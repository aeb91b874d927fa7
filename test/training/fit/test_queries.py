"""A detector that predicts each object once teaches a YOLO: whole short trainings with RT-DETR and YOLO26 as teachers."""

import dataclasses
import math

import pytest
from tiny_training import CLASSES, RTDETR, SIZE, architecture, columns, write_network

torch = pytest.importorskip('torch')

from training.distill.outputs import QUERIES  # noqa: E402
from training.distill.settings import DistillSettings, TermSettings  # noqa: E402
from training.distill.teacher import Teacher  # noqa: E402
from training.errors import LossError  # noqa: E402
from training.fit import loop  # noqa: E402
from training.fit.detector import fit_detector  # noqa: E402
from training.fit.job import FitJob  # noqa: E402
from training.fit.settings import FitSettings  # noqa: E402
from training.models.weights import build_network, load_network, save_weights  # noqa: E402

SETTINGS = FitSettings(image_size=SIZE, batch=2, unlabelled_batch=2, steps=3, warmup_steps=0, precision='float32')
DISTILL = DistillSettings((TermSettings('query_targets'),))


@pytest.fixture(scope='module')
def rtdetr(tmp_path_factory):
    """Fresh weights, as sure as a trained network."""
    torch.manual_seed(11)
    network = build_network(RTDETR, CLASSES)
    with torch.no_grad():
        for layer in network.model[-1].dec_score_head:
            layer.bias += 4.5
    file = tmp_path_factory.mktemp('teacher') / 'teacher.pt'
    save_weights(network, file, CLASSES)
    return file


@pytest.fixture(scope='module')
def job(pictures, rtdetr):
    return FitJob(
        architecture(), CLASSES, pictures[:8], SETTINGS, unlabelled=pictures[8:], teacher=rtdetr, distill=DISTILL
    )


def test_queries_are_what_the_network_detects(rtdetr):
    network, _ = load_network(rtdetr)
    images = torch.rand(3, 3, SIZE, SIZE)
    said = Teacher(rtdetr, CLASSES, torch.device('cpu'), torch.bfloat16)(images).branches[
        QUERIES
    ]  # float32 all the same
    assert said['scores'].shape == (3, len(CLASSES), 20)
    with torch.no_grad():
        detections = network(images)[0]  # centre, size, score, class, the best ones first
    best, place = said['scores'].sigmoid().flatten(1).max(1)
    class_ids, query = place // 20, place % 20
    torch.testing.assert_close(detections[:, 0, 4], best, rtol=1e-4, atol=1e-5)
    assert detections[:, 0, 5].tolist() == class_ids.tolist()
    corners = said['boxes'][torch.arange(3), :, query]
    wanted = torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], 1)
    torch.testing.assert_close(detections[:, 0, :4], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('student', ['yolov8n', 'yolov5n', 'yolo11n', 'yolo26n'])
def test_rtdetr_teaches_yolos_with_and_without_labels(job, tmp_path, student):
    distill = DistillSettings((TermSettings('query_targets'), TermSettings('cwd')))
    result = fit_detector(dataclasses.replace(job, student=architecture(student), distill=distill), tmp_path)
    log = columns(result.log)
    for name in ('query_targets', 'query_targets/unlabelled', 'cwd/unlabelled'):
        assert all(math.isfinite(float(value)) and float(value) > 0 for value in log[name]), name
    assert load_network(result.weights)[1] == CLASSES


def test_rtdetr_teaches_alone(job, tmp_path):
    """Without the task's loss, the student comes to say what the teacher says."""
    settings = dataclasses.replace(SETTINGS, steps=12, learning_rate=0.01, final_share=1.0)
    alone = dataclasses.replace(job, settings=settings, distill=dataclasses.replace(DISTILL, task_weight=0.0))
    log = columns(fit_detector(alone, tmp_path).log)
    values = [
        float(value) + float(spare)
        for value, spare in zip(log['query_targets'], log['query_targets/unlabelled'], strict=True)
    ]
    assert sum(values[-3:]) < 0.8 * sum(values[:3])


def test_a_resumed_run_equals_an_uninterrupted_one(job, tmp_path, monkeypatch):
    wanted = fit_detector(job, tmp_path / 'whole')
    real = loop.Run._update

    def killed(self):
        if self.step == 2:
            raise SystemExit
        return real(self)

    job = dataclasses.replace(job, settings=dataclasses.replace(SETTINGS, checkpoint_steps=1))
    with monkeypatch.context() as patched:
        patched.setattr(loop.Run, '_update', killed)
        with pytest.raises(SystemExit):
            fit_detector(job, tmp_path / 'resumed')
    result = fit_detector(job, tmp_path / 'resumed')
    assert result.log.read_bytes() == wanted.log.read_bytes()
    assert result.weights.read_bytes() == wanted.weights.read_bytes()


def test_a_teacher_that_is_never_sure_adds_nothing(job, tmp_path):
    """No error either: a batch without objects is nothing unusual."""
    unsure = DistillSettings((TermSettings('query_targets', settings={'threshold': 0.999}),))
    log = columns(fit_detector(dataclasses.replace(job, distill=unsure), tmp_path / 'unsure').log)
    assert {float(value) for value in log['query_targets']} == {0.0}


def test_another_images_queries_are_a_control(job, tmp_path):
    control = dataclasses.replace(DISTILL, teacher_control='shuffled')
    logs = [
        columns(fit_detector(dataclasses.replace(job, distill=distill), tmp_path / name).log)
        for name, distill in (('true', DISTILL), ('shuffled', control))
    ]
    assert logs[0]['task'][0] == logs[1]['task'][0]
    assert logs[0]['query_targets'][0] != logs[1]['query_targets'][0]


@pytest.mark.parametrize('student', ['yolov8n', 'yolo26n'])
def test_yolo26_teaches_by_its_one_to_one_branch(pictures, tmp_path, student):
    file = write_network(tmp_path / 'teacher.pt', architecture('yolo26n'))
    distill = DistillSettings((TermSettings('query_targets', settings={'threshold': 1e-5}),))
    job = FitJob(architecture(student), CLASSES, pictures[:8], SETTINGS, teacher=file, distill=distill)
    log = columns(fit_detector(job, tmp_path / 'run').log)
    assert all(float(value) > 0 for value in log['query_targets'])


@pytest.mark.parametrize(
    ('student', 'teacher', 'message'),
    [
        (architecture(), architecture(), 'query_targets needs a teacher that predicts each object once, like RT-DETR'),
        (RTDETR, RTDETR, 'query_targets teaches the head of a YOLO'),
    ],
)
def test_other_pairs_are_refused(pictures, tmp_path, student, teacher, message):
    file = write_network(tmp_path / 'teacher.pt', teacher)
    with pytest.raises(LossError, match=message):
        fit_detector(FitJob(student, CLASSES, pictures[:8], SETTINGS, teacher=file, distill=DISTILL), tmp_path / 'run')

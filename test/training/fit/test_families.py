"""Which detectors the trainer takes: YOLOv5u, v8, 11 and 26 with all terms, RT-DETR with those on maps."""

import dataclasses
import math

import pytest
from tiny_training import CLASSES, RTDETR, SIZE, architecture, columns, run_of, write_network

torch = pytest.importorskip('torch')

from training.distill.outputs import branches_of, decode  # noqa: E402
from training.distill.settings import DistillSettings, TermSettings  # noqa: E402
from training.distill.teacher import Teacher  # noqa: E402
from training.errors import FitError, LossError  # noqa: E402
from training.fit.detector import fit_detector  # noqa: E402
from training.fit.job import FitJob  # noqa: E402
from training.fit.settings import FitSettings  # noqa: E402
from training.models.weights import build_network, load_network  # noqa: E402

SETTINGS = FitSettings(image_size=SIZE, batch=4, steps=2, warmup_steps=0, precision='float32')


def distilled(pictures, student, teacher, *terms, **changes):
    distill = DistillSettings(tuple(TermSettings(name, start_step=0) for name in terms))
    return FitJob(student, CLASSES, pictures, SETTINGS, teacher=teacher, distill=distill, **changes)


@pytest.mark.parametrize(
    ('student', 'teacher', 'terms'),
    [
        ('yolov5n', 'yolov8n', ('cwd', 'bckd', 'binary_kd', 'ld', 'fgfi', 'ultralytics')),
        ('yolov8n', 'yolo11n', ('cwd', 'bckd', 'binary_kd', 'ld', 'fgfi', 'ultralytics')),
        ('yolo11n', 'yolo26n', ('cwd', 'bckd', 'binary_kd', 'fgfi', 'ultralytics')),
        ('yolo26n', 'yolo26n', ('cwd', 'bckd', 'binary_kd', 'fgfi', 'ultralytics')),
    ],
)
def test_families_train_and_learn_from_each_other(pictures, tmp_path, student, teacher, terms):
    file = write_network(tmp_path / 'teacher.pt', architecture(teacher, 0.1875))
    result = fit_detector(distilled(pictures, architecture(student), file, *terms), tmp_path)
    log = columns(result.log)
    assert all(float(log[name][1]) > 0 for name in terms)
    assert all(math.isfinite(float(value)) for value in log['gradient'])
    network, classes = load_network(result.weights)
    assert classes == CLASSES
    assert not hasattr(network, 'criterion')


def test_distributions_of_yolo26_are_refused(pictures, tmp_path):
    file = write_network(tmp_path / 'teacher.pt', architecture('yolo26n'))
    with pytest.raises(LossError, match=r'the student has 16 bins and the teacher 1 \(1: none, as in YOLO26\); bckd'):
        fit_detector(distilled(pictures, architecture(), file, 'ld'), tmp_path)


def test_both_branches_of_yolo26_are_taught(pictures, tmp_path):
    """The one-to-one branch is what runs on the robot; its teacher is the teacher's one-to-one branch."""
    file = write_network(tmp_path / 'teacher.pt', architecture('yolo26n'))
    used = Teacher(file, CLASSES, torch.device('cpu'), torch.float32)
    assert set(used(torch.rand(1, 3, SIZE, SIZE)).branches) == {'one2many', 'one2one'}
    job = distilled(pictures, architecture('yolo26n'), file, 'binary_kd')
    run = run_of(job, tmp_path)
    run.task.job = dataclasses.replace(job, distill=dataclasses.replace(job.distill, task_weight=0.0))
    run._accumulate(run.task.batches(0))
    head = run.student.model[-1]
    for branch in (head.cv3, head.one2one_cv3):
        assert all(bool(value.grad.any()) for value in branch.parameters())


def test_yolo26_moves_from_many_to_one(pictures, tmp_path):
    run = run_of(FitJob(architecture('yolo26n'), CLASSES, pictures, SETTINGS), tmp_path)
    shares = []
    for step in (0, 1, 2):
        run.task.advance(step / run.schedule.steps)
        shares.append((run.student.criterion.o2m, run.student.criterion.o2o))
    assert shares == [pytest.approx(pair) for pair in ((0.8, 0.2), (0.45, 0.55), (0.1, 0.9))]


def test_rtdetr_is_trained_and_learns_from_maps(pictures, tmp_path):
    file = write_network(tmp_path / 'teacher.pt', RTDETR)
    result = fit_detector(distilled(pictures, RTDETR, file, 'cwd', 'fgfi'), tmp_path / 'run')
    log = columns(result.log)
    assert {'task/giou_loss', 'task/cls_loss', 'task/l1_loss', 'cwd', 'fgfi'} <= log.keys()
    alone = columns(fit_detector(FitJob(RTDETR, CLASSES, pictures, SETTINGS), tmp_path / 'alone').log)
    assert alone['task'][0] == log['task'][0]  # its denoising queries are drawn alike in both arms
    with pytest.raises(LossError, match='RT-DETR and YOLOv4 are distilled by their maps only'):
        fit_detector(distilled(pictures, RTDETR, file, 'bckd'), tmp_path / 'refused')
    settings = dataclasses.replace(SETTINGS, unlabelled_batch=1)
    job = dataclasses.replace(distilled(pictures, RTDETR, file, 'cwd'), settings=settings, unlabelled=pictures[:2])
    with pytest.raises(FitError, match='RT-DETR is trained on labelled images only'):
        fit_detector(job, tmp_path / 'unlabelled')


@pytest.mark.parametrize('family', ['yolov8n', 'yolo26n'])
def test_boxes_are_decoded_as_the_head_does(family):
    torch.manual_seed(3)
    network = build_network(architecture(family), CLASSES).eval()
    head = network.model[-1]
    head.end2end = False
    head.xyxy = True
    with torch.no_grad():
        decoded, raw = network(torch.rand(2, 3, SIZE, SIZE))
        boxes = decode(branches_of(raw)['one2many'], head.reg_max, head.stride.tolist())
    torch.testing.assert_close(boxes, decoded[:, :4], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize('precision', ['bfloat16', 'float32'])
def test_precisions(pictures, teacher, tmp_path, precision):
    settings = dataclasses.replace(SETTINGS, precision=precision, optimizer='sgd', learning_rate=0.01)
    job = dataclasses.replace(distilled(pictures, architecture(), teacher, 'cwd', 'bckd'), settings=settings)
    result = fit_detector(job, tmp_path / 'run')
    assert all(math.isfinite(float(value)) for value in columns(result.log)['loss'])
    assert all(value.dtype != torch.bfloat16 for value in load_network(result.weights)[0].state_dict().values())

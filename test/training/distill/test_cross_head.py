"""CrossKD: the student's features in the teacher's head."""

import pytest

torch = pytest.importorskip('torch')

from tiny_training import CLASSES, RTDETR, SIZE, architecture, columns, run_of, write_network  # noqa: E402

from training.distill.cross_head import CrossHead, cross_layers, head_of  # noqa: E402
from training.distill.outputs import Probe, branches_of  # noqa: E402
from training.distill.settings import DistillSettings, TermSettings  # noqa: E402
from training.errors import LossError  # noqa: E402
from training.fit.detector import fit_detector  # noqa: E402
from training.fit.job import FitJob  # noqa: E402
from training.fit.settings import FitSettings  # noqa: E402
from training.models.weights import build_network, load_network  # noqa: E402

SETTINGS = FitSettings(image_size=SIZE, batch=4, steps=2, warmup_steps=0, precision='float32', ema_decay=0.0)
TERMS = DistillSettings((TermSettings('crosskd'),))


@pytest.mark.parametrize('name', ['yolov8n', 'yolo11n'])
def test_a_networks_own_features_give_its_own_predictions(name):
    network = build_network(architecture(name), CLASSES).eval()
    layers = cross_layers(network)
    assert len(layers) == 6
    probe = Probe(network, layers)
    with torch.no_grad():
        own = branches_of(network(torch.rand(2, 3, SIZE, SIZE))[1])['one2many']
        maps = probe.take()
        cross = CrossHead(head_of(network), [maps[layer].shape[1] for layer in layers])
        scores, sides = cross([maps[layer] for layer in layers])
    assert torch.equal(scores, own['scores'])
    assert torch.equal(sides, own['boxes'])
    assert not list(cross.parameters())


@pytest.mark.parametrize(('student', 'width'), [('yolov8n', 0.125), ('yolo11n', 0.125)])
def test_a_student_learns_through_the_head_of_a_wider_teacher(student, width, pictures, tmp_path):
    teacher = write_network(tmp_path / 'teacher.pt', architecture(width=1.0))
    job = FitJob(architecture(student, width), CLASSES, pictures, SETTINGS, teacher=teacher, distill=TERMS)
    run = run_of(job, tmp_path)
    adapters = list(run.terms.parameters())
    assert adapters, 'the class branches of a wide head have other channels'
    assert sum(value.numel() for value in run.terms.state_dict().values()) == sum(value.numel() for value in adapters)
    result = fit_detector(job, tmp_path / 'fit')
    log = columns(result.log)
    assert float(log['crosskd'][0]) > 0
    assert float(log['gradient/crosskd'][0]) > 0
    assert (
        load_network(result.weights)[0].state_dict().keys() == build_network(job.student, CLASSES).state_dict().keys()
    )


def test_other_heads_are_refused(pictures, teacher, tmp_path):
    job = FitJob(RTDETR, CLASSES, pictures, SETTINGS, teacher=teacher, distill=TERMS)
    with pytest.raises(LossError, match='through the head of another'):
        fit_detector(job, tmp_path / 'student')
    queries = write_network(tmp_path / 'queries.pt', RTDETR)
    with pytest.raises(LossError, match='compares heads of YOLO'):
        fit_detector(
            FitJob(architecture(), CLASSES, pictures, SETTINGS, teacher=queries, distill=TERMS), tmp_path / 'teacher'
        )

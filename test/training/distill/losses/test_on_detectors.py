"""The losses on what Ultralytics' detection heads put out while they train: YOLOv8n learns from YOLOv8s."""

import pytest

torch = pytest.importorskip('torch')

from training.distill.losses import make, make_levels  # noqa: E402
from training.models.ultralytics_architecture import DetectionModel  # noqa: E402

CLASSES = 3
NARROW, WIDE = (64, 128, 256), (128, 256, 512)
BOXES = [torch.tensor([[8.0, 8, 40, 56], [30, 2, 44, 12]]), torch.zeros(0, 4)]


@pytest.fixture(scope='module')
def networks():
    torch.manual_seed(7)
    student = DetectionModel('yolov8n.yaml', nc=CLASSES, verbose=False).train()
    teacher = DetectionModel('yolov8s.yaml', nc=CLASSES, verbose=False).train()
    return student, teacher


@pytest.fixture
def outputs(networks):
    """The heads' outputs for two images of 64 × 64: boxes (2, 64, 84), scores (2, 3, 84), feats P3 to P5."""
    images = torch.rand(2, 3, 64, 64)
    for network in networks:
        network.zero_grad()
    return [network(images) for network in networks]


CASES = {
    'ld': lambda s, t: make('ld')(s['boxes'], t['boxes'], t['scores'].sigmoid().amax(1)),
    'bckd': lambda s, t: make('bckd')(s['scores'], t['scores'], positives=5),
    'binary_kd': lambda s, t: make('binary_kd')(s['scores'], t['scores'], positives=5),
    'fgfi': lambda s, t: make('fgfi', student_channels=NARROW, teacher_channels=WIDE)(s['feats'], t['feats'], BOXES),
    **{
        name: lambda s, t, name=name: make_levels(name, NARROW, WIDE, adapter='conv')(s['feats'], t['feats'])
        for name in ('cwd', 'pkd', 'mgd', 'fitnet', 'at', 'vid', 'ft')
    },
}


@pytest.mark.parametrize('name', CASES)
def test_the_students_network_is_pulled_and_the_teachers_is_not(networks, outputs, name):
    student, teacher = networks
    value = CASES[name](*outputs)
    value.backward()
    assert value.isfinite()
    gradients = [value.grad for value in student.parameters() if value.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert sum(gradient.abs().sum() for gradient in gradients) > 0
    assert all(value.grad is None for value in teacher.parameters())


def test_the_bins_of_one_side_lie_together(networks):
    """LD's order of bins is the one from which the head's own integral reads the sides."""
    head = networks[0].model[-1]
    assert head.reg_max == 16
    certain = torch.full((1, 4, 16, 1), -50.0)
    for side, bin_ in enumerate((3, 0, 15, 7)):
        certain[0, side, bin_] = 50.0
    assert head.dfl(certain.reshape(1, 64, 1)).flatten().tolist() == pytest.approx([3, 0, 15, 7])
    blurred = certain.clone()
    blurred[0, 2] = 0
    loss = make('ld')
    by_side = loss(blurred[0, 2].T, certain[0, 2].T) / 4
    torch.testing.assert_close(loss(blurred.reshape(1, 64, 1), certain.reshape(1, 64, 1)), by_side)

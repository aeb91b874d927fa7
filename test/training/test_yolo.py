"""The detector's training in bfloat16, and its weights file."""

from pathlib import Path

import pytest

torch = pytest.importorskip('torch')

from training.errors import WeightsError  # noqa: E402
from training.models.yolo import (  # noqa: E402
    Bfloat16Model,
    DetectionModel,
    load_network,
    load_weights,
    save_weights,
)

CLASSES = ('car', 'truck', 'bus')


@pytest.fixture
def batch():
    """Two images with three objects."""
    torch.manual_seed(3)
    return {
        'img': torch.rand(2, 3, 64, 64),
        'batch_idx': torch.tensor([0.0, 0, 1]),
        'cls': torch.tensor([[0.0], [1], [2]]),
        'bboxes': torch.tensor([[0.3, 0.3, 0.3, 0.2], [0.7, 0.6, 0.2, 0.4], [0.5, 0.5, 0.5, 0.5]]),
    }


def trainable(kind: type[DetectionModel]) -> DetectionModel:
    from ultralytics.cfg import get_cfg

    torch.manual_seed(4)
    model = kind('yolov8n.yaml', nc=len(CLASSES), verbose=False)
    model.args = get_cfg()
    return model.train()


def test_bfloat16_training_computes_nearly_the_float_loss(batch):
    wanted, _ = trainable(DetectionModel).loss(batch)
    model = trainable(Bfloat16Model)
    loss, _ = model.loss(batch)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, wanted, rtol=0.05, atol=0.05)
    loss.sum().backward()
    gradients = [value.grad for value in model.parameters() if value.requires_grad]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    assert all(gradient.dtype == torch.float32 for gradient in gradients)


def test_weights_survive_the_file(tmp_path):
    torch.manual_seed(2)
    model = DetectionModel('yolov8n.yaml', nc=len(CLASSES), verbose=False).eval()
    file = tmp_path / 'weights.pt'
    save_weights(model, file, architecture='yolov8n.yaml', classes=CLASSES)
    loaded, classes = load_network(file)
    assert classes == CLASSES
    for name, value in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value, check_dtype=False)


def test_weights_of_another_network_are_refused(tmp_path):
    file = tmp_path / 'weights.pt'
    save_weights(
        DetectionModel('yolov8n.yaml', nc=2, verbose=False), file, architecture='yolov8n.yaml', classes=('a', 'b')
    )
    with pytest.raises(WeightsError, match='does not fit the network'):
        load_weights(DetectionModel('yolov8n.yaml', nc=3, verbose=False), file)


@pytest.mark.parametrize('content', [b'', b'no weights', b'PK\x03\x04 broken'])
def test_files_that_are_no_weights_are_refused(tmp_path: Path, content):
    file = tmp_path / 'weights.pt'
    file.write_bytes(content)
    with pytest.raises(WeightsError, match='cannot be read'):
        load_network(file)


def test_a_file_of_plain_tensors_is_not_ours(tmp_path):
    file = tmp_path / 'weights.pt'
    torch.save({'a': torch.zeros(1)}, file)
    with pytest.raises(WeightsError, match='not a weights file of this trainer'):
        load_network(file)

"""The YOLOv4 family is trained and distilled without a line of Ultralytics: network, losses, loader, weights, recipe."""

import torch
from without_ultralytics import run_without_ultralytics

from test.tiny_training import write_pictures
from training.fit.depthwise import Float32Depthwise, depthwise_in_float32
from training.models.yolov4.architecture import build

SCRIPT = """
from pathlib import Path

import training.run.plan
from training.data.augment import AugmentSettings
from training.distill.settings import DistillSettings, TermSettings
from training.export.heads import boxes_scores
from training.fit.job import FitJob
from training.fit.detector import fit_detector
from training.fit.settings import FitSettings
from training.models.weights import load_network, save_weights
from training.prune.pruning import prune
from training.prune.settings import PruneSettings

folder = Path(sys.argv[1])
network = {'family': 'yolov4', 'backbone': 'mobilenet_v2', 'neck': 'light', 'width': 0.1}
settings = FitSettings(image_size=64, batch=2, steps=2, precision='bfloat16', augment=AugmentSettings(by='opencv'))
job = FitJob(student=network, classes=('a', 'b'), images=sorted(folder.glob('images/*.png')), settings=settings)
result = fit_detector(job, folder / 'fit')
trained, classes = load_network(result.weights)
boxes_scores(trained, 64, 64)
assert classes == ('a', 'b') and result.steps == 2
pruned = prune(trained, PruneSettings(ratio=0.5), 64, 64)
save_weights(pruned.network, folder / 'pruned.pt', classes)
taught = FitJob(
    student=folder / 'pruned.pt',
    classes=classes,
    images=job.images,
    settings=settings,
    teacher=result.weights,
    distill=DistillSettings(terms=tuple(TermSettings(loss=name) for name in ('cwd', 'fgfi', 'fitnet'))),
    kept=pruned.kept,
)
assert fit_detector(taught, folder / 'taught').steps == 2
assert not any(name.partition('.')[0] == 'ultralytics' for name in sys.modules)
print('trained without')
"""


def test_a_network_of_the_family_is_trained_without_ultralytics(tmp_path):
    write_pictures(tmp_path, 4)
    done = run_without_ultralytics(SCRIPT, tmp_path)
    assert 'trained without' in done.stdout, done.stderr[-2000:]


def test_depthwise_convolutions_that_are_trained_compute_in_float32_beside_bfloat16():
    torch.manual_seed(0)
    network = build({'family': 'yolov4', 'backbone': 'timm/efficientnet_lite0', 'neck': 'light', 'width': 0.1}, ('a',))
    names = list(network.state_dict())
    frozen = network.backbone.body.blocks[0][0].conv_dw
    frozen.requires_grad_(False)
    before = [value.clone() for value in network.eval()(torch.ones(1, 3, 64, 64))]
    depthwise_in_float32(network)
    assert list(network.state_dict()) == names
    assert all(torch.equal(one, other) for one, other in zip(before, network(torch.ones(1, 3, 64, 64)), strict=True))
    kinds = [type(layer) for layer in network.modules() if isinstance(layer, torch.nn.Conv2d) and layer.groups > 1]
    assert kinds.count(Float32Depthwise) == len(kinds) - 1
    layer = network.neck.fine_up[1][0][0]
    with torch.autocast('cpu', torch.bfloat16):
        assert layer(torch.ones(1, layer.in_channels, 8, 8, dtype=torch.bfloat16)).dtype == torch.float32
        assert frozen(torch.ones(1, frozen.in_channels, 8, 8)).dtype == torch.bfloat16

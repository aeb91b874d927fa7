"""The accuracy gate judges compression, by what the measurement can show; the float network is never refused."""

from __future__ import annotations

import pytest
from networks import metrics

from kd_perception.bundles.bundle import Artifact
from kd_perception.selection import gate


def artifact(precision: str, stated: dict) -> Artifact:
    return Artifact('onnxruntime', precision, 'net.onnx', '0' * 64, stated)


@pytest.mark.parametrize(
    ('why', 'precision', 'stated', 'limit', 'refused'),
    [
        ('a loss over the limit that shows', 'int8', metrics(0.45, 0.50), 0.02, True),
        ('a loss within the limit', 'int8', metrics(0.45, 0.50), 0.2, False),
        ('a loss that the pictures cannot show', 'int8', metrics(0.45, 0.50, margin=0.06), 0.02, False),
        ('a gain', 'int8', metrics(0.514, 0.4996), 0.0, False),
        ('any loss that shows', 'int8', metrics(0.499, 0.50, margin=0.0005), 0.0, True),
        ('half precision is compression too', 'fp16', metrics(0.40, 0.50), 0.02, True),
        ('the float network, whatever it states', 'fp32', metrics(0.40, 0.50), 0.02, False),
        ('a point estimate alone, as bundles had it', 'int8', metrics(0.40), 0.02, False),
        ('measured by nobody', 'int8', {}, 0.02, False),
        ('a float network that finds nothing', 'int8', metrics(0.0, 0.0), 0.02, False),
    ],
)
def test_what_is_refused(why, precision, stated, limit, refused):
    assert bool(gate.refusal(artifact(precision, stated), limit)) == refused, why


def test_the_refusal_tells_loss_interval_and_limit():
    said = gate.refusal(artifact('int8', metrics(0.45, 0.50, margin=0.02)), 0.02)
    for part in ('10.0 % of its mAP50-95', 'from 0.500 by 0.050', '0.030 to 0.070', 'limit of 2.0 %', 'max_map_drop'):
        assert part in said

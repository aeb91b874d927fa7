"""Tiles on the real node: changed while it runs, refused at once where nobody can read them, and told in /diagnostics."""

from __future__ import annotations

import numpy as np
from detector_process import wait_for
from rclpy.parameter import Parameter

FRAME = np.zeros((128, 128, 3), np.uint8)
FRAME[80:96, 32:48] = 255
"""A cell's worth of white: a quarter of a cell where the network sees the frame as a whole, a full one in its tile."""


def test_tiles_by_parameter_find_what_the_whole_frame_is_too_coarse_for(start_node):
    detector = start_node(tile_overlap=0.0, score_threshold=0.5)
    client = detector.client
    assert client.detect(FRAME).detections == []
    (answer,) = detector.node.set_parameters([Parameter('tiles', value='2x2')])
    assert answer.successful
    wait_for(lambda: client.vision[-1].database_version == 2, 'the detector with tiles')
    found = client.detect(FRAME).detections
    assert [(one.bbox.center.position.x, one.bbox.center.position.y) for one in found] == [(40, 88)]


def test_auto_keeps_to_the_budget_and_says_so(start_node):
    client = start_node(tiles='auto', tile_overlap=0.0, latency_budget_ms=60000.0).client
    client.detect(FRAME)
    says = '2x2+whole of 128x128 at scale 1.00, 5 passes'
    wait_for(lambda: says in client.value('model', 'tiles'), 'the plan in /diagnostics')
    assert 'within 90% of the budget of 60000 ms' in client.value('model', 'tiles')


def test_what_nobody_can_read_is_refused_and_the_node_goes_on(start_node):
    detector = start_node()
    (answer,) = detector.node.set_parameters([Parameter('tiles', value='two by two')])
    assert not answer.successful
    assert 'off, auto, or COLUMNSxROWS' in answer.reason
    assert detector.node.get_parameter('tiles').value == 'off'

"""Clutter: what looks like a vehicle and is none."""

from dataclasses import replace

import numpy as np
import pytest

from kd_perception.scene import Scene, SceneSettings, draw_settings

BARE = SceneSettings(ground_sample_distance=0.14, blur=0.0, noise=0.0, greenness=0.5)


@pytest.mark.parametrize('layout', ['street', 'crossing', 'parking', 'roundabout'])
def test_clutter_is_drawn_from_the_seed_and_changes_the_ground_but_not_the_traffic(layout):
    plain, cluttered, again = (
        Scene(5, 240, 180, settings=replace(BARE, layout=layout, clutter=clutter)).frame(0)
        for clutter in (0.0, 1.5, 1.5)
    )
    assert np.array_equal(cluttered.image, again.image)
    assert (plain.image != cluttered.image).any(axis=2).mean() > 0.05
    assert set(plain.truth.track_ids) & set(cluttered.truth.track_ids) == set(plain.truth.track_ids)
    assert np.allclose(plain.truth.boxes, cluttered.truth.boxes, atol=0.01)


def test_drawn_scenes_have_none_unless_it_is_asked_for():
    assert {draw_settings(seed).clutter for seed in range(20)} == {0.0}


@pytest.mark.parametrize('clutter', [-0.1, 3.5, float('nan')])
def test_impossible_densities_are_refused(clutter):
    with pytest.raises(ValueError, match='clutter'):
        SceneSettings(clutter=clutter)

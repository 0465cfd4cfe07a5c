"""The marched surface against closed forms: one capsule is a sphere, and nearer parts hide those behind them."""

import numpy as np

from handdata.world.flesh import Capsule
from handdata.world.surface import Camera, find_surface

LIGHT = np.array([0.0, 0.0, 1.0])
BACK = np.array([0.0, 0.0, -1.0])


def ball(x, y, z, radius, group=1, blend=2.0):
    center = np.array([x, y, z], float)
    return Capsule(center, center + np.array([0, 0, 1e-3]), radius, radius, group, blend, 5, 3, BACK)


def test_a_ball_has_the_outline_points_and_normals_of_a_sphere():
    camera = Camera(600.0, 900.0, (80.0, 80.0))
    surface = find_surface([ball(0, 0, 0, 40)], camera, (160, 160), LIGHT)
    radius = np.linalg.norm(surface.points, axis=1)
    assert np.abs(radius - 40).max() < 0.9
    assert np.abs(np.median(radius) - 40) < 0.05
    np.testing.assert_allclose(surface.normals, surface.points / radius[:, None], atol=0.02)
    outline = 900 * 40 / np.sqrt(600**2 - 40**2)  # px: the tangent cone of a sphere
    assert abs(np.sqrt(len(surface.rows) / np.pi) - outline) < 0.6


def test_of_two_balls_in_a_line_of_sight_the_nearer_is_seen():
    camera = Camera(600.0, 900.0, (80.0, 80.0))
    surface = find_surface([ball(0, 0, -60, 40), ball(0, 0, 60, 20, group=2)], camera, (160, 160), LIGHT)
    middle = (surface.rows == 80) & (surface.columns == 80)
    assert surface.capsule[middle] == [1]
    assert abs(surface.points[middle][0, 2] - 80) < 0.5


def test_an_object_in_the_light_casts_a_shadow():
    camera, light = Camera(600.0, 900.0, (80.0, 80.0)), np.array([0.6, 0.0, 0.8])
    wall = Capsule(np.array([-40.0, 0, 0]), np.array([40.0, 0, 0]), 30, 30, 1, 2.0, 5, 3, BACK)
    alone = find_surface([wall], camera, (160, 160), light)
    shaded = find_surface([wall, ball(20, 0, 45, 12, group=2)], camera, (160, 160), light)

    def lit(surface):
        spot = (np.abs(surface.points[:, 0] - 2) < 6) & (np.abs(surface.points[:, 1]) < 4) & (surface.capsule == 0)
        return surface.lit[spot].mean()

    assert lit(alone) > 0.95
    assert lit(shaded) < 0.6


def test_capsules_of_a_group_melt_and_of_two_groups_do_not():
    camera = Camera(600.0, 900.0, (80.0, 80.0))

    def gap(group):
        pair = [ball(-22, 0, 0, 20, 1, 12.0), ball(22, 0, 0, 20, group, 12.0)]
        surface = find_surface(pair, camera, (160, 160), LIGHT)
        return int(((surface.rows == 80) & (np.abs(surface.columns - 80) < 2)).sum())

    assert gap(1) == 3
    assert gap(2) == 0

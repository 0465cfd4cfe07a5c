import numpy as np
import pytest

from handtrain.data.crops import window
from handtrain.method.poses import bank, from_bank, medoids, pose_in_square


def test_a_pose_is_in_fractions_of_the_square_that_is_cut() -> None:
    # 200 x 100 pixels become 128 x 64, of which the middle 64 columns are kept: x = 0.5 stays, 0.25 is its left edge
    points = np.zeros((21, 3))
    points[0], points[1] = (0.5, 0.5, 0.1), (0.25, 1.0, 0.0)
    pose = pose_in_square(points, True, 200, 100, window(200, 100, 64))
    assert pose.shape == (64,)
    assert pose[0:3] == pytest.approx([0.5, 0.5, 0.2])  # z is in widths of the image, of which the square has half
    assert pose[3:5] == pytest.approx([0.0, 1.0])
    assert pose[63] == 1


def test_medoids_are_one_pose_of_each_cluster_and_never_nan() -> None:
    rng = np.random.default_rng(0)
    centers = np.zeros((3, 64))
    centers[1], centers[2] = 5, -5
    poses = np.concatenate([center + 0.1 * rng.standard_normal((10, 64)) for center in centers])
    poses = np.concatenate([poses, np.full((4, 64), np.nan)])
    chosen = medoids(poses, 3)
    assert sorted(np.sign(np.round(chosen.mean(axis=1)))) == [-1, 0, 1]
    assert all((poses == pose).all(axis=1).any() for pose in chosen)


@pytest.mark.parametrize(("gestures", "count"), [(1, 8), (15, 8), (33, 4)])
def test_a_bank_is_small_and_reads_back(gestures: int, count: int) -> None:
    poses = np.random.default_rng(1).random((30, 64)).astype(np.float32)
    lines = bank(poses, gestures)
    assert len(lines) == count
    assert gestures * sum(map(len, lines)) < 100_000
    read = from_bank(lines)
    assert all(np.abs(poses - pose).max(axis=1).min() < 1e-4 for pose in read)


def test_a_bank_leaves_out_wrong_detections() -> None:
    rng = np.random.default_rng(2)
    poses = 0.5 + 0.05 * rng.standard_normal((60, 64))
    wrong = [3, 17, 40]
    poses[wrong] = rng.random((3, 64)) * [[3.0], [-2.0], [5.0]]
    read = from_bank(bank(poses, 1))
    assert all(np.abs(read - poses[place]).max(axis=1).min() > 0.1 for place in wrong)
    assert len(np.unique(read, axis=0)) == 8

"""The judge of anatomy and its benchmark: the equations, the views, the network in torch, the shipped weights."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.anatomy_fit import auc, by_folds, fit, logistic, without
from benchmarks.anatomy_measures import Measures
from handdata import assets
from handdata.errors import UserError
from handdata.recipe import RenderOptions
from handdata.vision.landmarks import HandFinder
from handdata.world.tasks import Task, draw_task
from handtrain.judging import anatomy
from handtrain.landmark_network.readings import FEATURES, Readings, all_visible, open_network, stability
from handtrain.landmark_network.tflite import Operation, _last_readers, _same
from handtrain.landmark_network.views import SIDE, VIEWS, region, views


def _has_model() -> bool:
    try:
        return assets.path("hand-landmarker").is_file()
    except UserError:
        return False


needs_model = pytest.mark.skipif(not _has_model(), reason="MediaPipe's hand landmarker is not in the cache")
# An upright left hand with its palm towards the viewer: wrist, then the joints of thumb to little finger.
OPEN = np.array(
    [(100, 200), (75, 185), (55, 165), (40, 145), (28, 128)]
    + [(x, y) for x, tip in ((75, 45), (95, 35), (115, 45), (135, 70)) for y in np.linspace(110, tip, 4)],
    float,
)


def test_auc_is_the_share_of_pairs_in_order_and_ties_count_half():
    assert auc(np.array([2.0, 3.0]), np.array([1.0, 2.0])) == 3.5 / 4
    assert auc(np.array([np.inf, 0.0]), np.array([np.inf])) == 0.25  # two pictures without a hand are a tie


def test_a_logistic_regression_on_noise_returns_the_base_rate_and_on_a_signal_its_direction():
    x = np.random.default_rng(0).normal(size=(400, 2))
    wrong = np.arange(400) % 4 == 0
    assert abs(logistic(x, wrong)[-1] - np.log(1 / 3)) < 0.1
    slopes = logistic(x, x[:, 1] - 2 * x[:, 0] > 0)[:2]
    assert slopes[0] < 0 < slopes[1] and abs(slopes[0] / slopes[1] + 2) < 0.3


def test_a_region_turns_and_moves_with_the_hand():
    center, side, angle = region(OPEN)
    turn = np.radians(30)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    turned_center, turned_side, turned_angle = region(OPEN @ matrix.T + [7, -3])
    np.testing.assert_allclose(turned_center, matrix @ center + [7, -3], atol=1e-9)
    assert turned_side == pytest.approx(side) and turned_angle == pytest.approx(angle + turn)
    mirrored = region(OPEN * [-1, 1])
    assert mirrored[2] == pytest.approx(-angle) and mirrored[1] == pytest.approx(side, rel=0.02)


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_every_view_maps_back_to_the_pixel_that_it_shows(scale):
    points, spot = OPEN * scale, np.array([118.0, 90.0]) * scale
    y, x = np.mgrid[: int(260 * scale), : int(240 * scale)]
    blob = 255 * np.exp(-((x - spot[0]) ** 2 + (y - spot[1]) ** 2) / (2 * (5 * scale) ** 2))
    crops, matrices = views(np.repeat(blob[..., None], 3, axis=2).astype(np.uint8), points)
    assert crops.shape == (len(VIEWS), SIDE, SIDE, 3)
    for crop, matrix in zip(crops[..., 0].astype(float), matrices, strict=True):
        rows, columns = np.mgrid[:SIDE, :SIDE]
        middle = np.array([(crop * columns).sum(), (crop * rows).sum()]) / crop.sum() + 0.5
        assert np.abs(matrix[:, :2] @ middle + matrix[:, 2] - (spot + 0.5)).max() < 0.25 * max(scale, 1)


def _readings(points: np.ndarray) -> Readings:
    one = np.ones(len(VIEWS))
    hand = np.where([view[0] for view in VIEWS], 0.0, 1.0)
    return Readings(points, one, hand, points, np.zeros((len(VIEWS), FEATURES)))


def test_equal_landmarks_in_all_views_are_stable_and_a_tip_that_moves_is_not():
    identity = np.tile(np.array([[1.0, 0, 0], [0, 1.0, 0]]), (len(VIEWS), 1, 1))
    points = np.tile(np.column_stack([OPEN, np.zeros(21)]), (len(VIEWS), 1, 1))
    still = stability(_readings(points), identity)
    assert still[:3] == pytest.approx(np.log(1e-4)) and still[7] == 0
    points[3, 8, 0] += 30
    moved = stability(_readings(points), identity)
    assert (moved[:3] > still[:3] + 2).all() and moved[1] > moved[0]


def test_fingers_are_counted_only_where_all_are_extended():
    assert all_visible(OPEN)
    curled = OPEN.copy()
    curled[8] = curled[5] + [0, 12]
    assert not all_visible(curled)
    folded = OPEN.copy()
    folded[4] = (105, 140)
    assert not all_visible(folded)


@pytest.mark.parametrize(("kernel", "stride", "size"), [(3, 2, 8), (5, 2, 8), (3, 1, 7), (5, 2, 7)])
def test_padding_is_tensorflows_same(kernel, stride, size):
    """An independent sum: output i reads inputs from i * stride - before on; the odd pixel is at the end."""
    row, weight = np.arange(1.0, size + 1), np.arange(1.0, kernel + 1)
    count = -(-size // stride)
    before = max((count - 1) * stride + kernel - size, 0) // 2
    expected = [
        sum(weight[k] * row[i * stride - before + k] for k in range(kernel) if 0 <= i * stride - before + k < size)
        for i in range(count)
    ]
    square = torch.tensor(row)[None, None, None].repeat(1, 1, size, 1)
    line = torch.zeros(1, 1, kernel, kernel, dtype=torch.float64)
    line[0, 0, kernel // 2] = torch.tensor(weight)
    line, pad = _same(line, stride, size)
    result = torch.nn.functional.conv2d(square, line, stride=stride, padding=pad)
    np.testing.assert_allclose(result[0, 0, count // 2].numpy(), expected)


def test_a_map_is_kept_until_its_last_reader_and_a_wanted_one_to_the_end():
    steps = [Operation(0, inputs, output, (), 1, 0, 0) for inputs, output in (((0,), 1), ((1,), 2), ((2, 1), 3))]
    assert _last_readers(steps, [3]) == [[0], [], [1, 2]]
    assert _last_readers(steps, [1, 3]) == [[0], [], [2]]


def _measures(people: int) -> Measures:
    """Hands of which the first features say whether they are wrong, with noise."""
    rng, n = np.random.default_rng(1), people * 8
    wrong = np.arange(n) % 2 == 1
    features = rng.normal(size=(n, FEATURES))
    features[:, :40] += wrong[:, None]
    flaws = np.zeros((n, len(anatomy.FLAWS)), bool)
    flaws[wrong, np.arange(n // 2) % len(anatomy.FLAWS)] = True
    names = np.arange(n).astype(str)
    blank, yes = np.zeros(n), np.ones(n, bool)
    return Measures(
        names, names, np.repeat(np.arange(people), 8).astype(str), blank + 256, wrong, flaws,
        np.where(wrong, 6, 5), yes, yes, blank + 0.9, rng.normal(size=(n, 9)), rng.normal(size=(n, 35)), features,
    )  # fmt: skip


def test_a_fit_judges_hands_of_people_that_it_never_saw():
    data = _measures(30)
    seen = []

    def judge(known: Measures, new: Measures) -> np.ndarray:
        assert not set(known.person) & set(new.person)
        seen.extend(new.name)
        weights = fit(known, 0)
        return weights.p_wrong(weights.outputs(new.features), new.stability)

    p_wrong = by_folds(data, 0, judge)
    assert sorted(seen) == sorted(data.name)
    assert auc(p_wrong[data.wrong], p_wrong[~data.wrong]) > 0.85
    assert 0.2 < p_wrong.mean() < 0.8
    left = without(data, "fused-fingers")
    assert len(left.name) == len(data.name) - data.flaws[:, anatomy.FLAWS.index("fused-fingers")].sum()


def test_the_shipped_weights_load_and_others_are_refused(monkeypatch):
    weights = anatomy.Weights.load()
    assert weights.linear.shape == (FEATURES, 12) and weights.logistic.shape == (3,)
    assert weights.logistic[0] > 0  # the output `wrong` raises p_wrong
    monkeypatch.setattr(anatomy, "SHA256", "0" * 64)
    with pytest.raises(ValueError, match="is not the file"):
        anatomy.Weights.load()


def _drawn(kind: str, gesture: str = "palm") -> np.ndarray:
    options = RenderOptions(seed=70, pairs=True, flaws=("extra-finger",), flaw_count=1, second_hand=0.0)
    jpeg, _, _ = draw_task(Task(gesture, "test", 0, kind), options)  # type: ignore[arg-type]
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))


@needs_model
def test_three_drawn_hands_are_judged_and_the_network_reads_the_landmarks_that_mediapipe_reads():
    judge, network, judged = anatomy.AnatomyJudge(), open_network(), []
    with HandFinder() as finder:
        for kind, gesture in (("whole", "palm"), ("wrong", "palm"), ("whole", "fist")):
            image = _drawn(kind, gesture)
            points = finder.find(image).landmarks[0].astype(float) * [256, 256, 256]
            judged.append(judge.judge(image, points))
    right, wrong, fist = judged
    assert all(0 <= each.p_wrong <= 1 for each in judged)
    assert right.p_wrong < wrong.p_wrong
    assert right.fingers in anatomy.FINGERS and fist.fingers is None
    assert all((each.flaw in anatomy.FLAWS) == (each.p_wrong > 0.5) for each in judged)
    crops, matrices = views(image, points)
    with torch.inference_mode():
        known = network(torch.from_numpy(crops[:1]).permute(0, 3, 1, 2).float() / 255)
    mine = known[165].reshape(21, 3).numpy()[:, :2] @ matrices[0, :, :2].T + matrices[0, :, 2]
    assert np.abs(mine - points[:, :2]).mean() < 0.03 * np.ptp(points[:, :2])

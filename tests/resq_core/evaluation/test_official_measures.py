"""J, F, mIoU and PCK beside computations of their own, and beside the DAVIS benchmark's figures."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from resq_core.evaluation import (
    PCK,
    CamVid,
    ConfusionMatrix,
    Statistics,
    boundary_accuracy,
    box_size,
    region_similarity,
)
from resq_core.evaluation.datasets.clips import read_ids

DAVIS_SIZE = (480, 854)


def outline(mask: np.ndarray) -> np.ndarray:
    """The benchmark's boundary: unlike the pixel to the right, below, or both; the last row looks
    to the right only, the last column down only, and the last pixel is never one."""
    found = np.zeros_like(mask)
    height, width = mask.shape
    for y in range(height):
        for x in range(width):
            ahead = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
            ahead = [(v, u) for v, u in ahead if v < height and u < width]
            found[y, x] = any(mask[v, u] != mask[y, x] for v, u in ahead)
    return found


def contour_measure(predicted: np.ndarray, annotated: np.ndarray) -> float:
    """The benchmark's F, with SciPy's dilation by its disc."""
    radius = int(np.ceil(0.008 * np.linalg.norm(annotated.shape)))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disc = x**2 + y**2 <= radius**2
    ours, theirs = outline(predicted), outline(annotated)
    if not ours.any() and not theirs.any():
        precision = recall = 1.0
    elif not ours.any():
        precision, recall = 1.0, 0.0
    elif not theirs.any():
        precision, recall = 0.0, 1.0
    else:
        precision = (ours & ndimage.binary_dilation(theirs, disc)).sum() / ours.sum()
        recall = (theirs & ndimage.binary_dilation(ours, disc)).sum() / theirs.sum()
    both = precision + recall
    return 0.0 if both == 0 else 2 * precision * recall / both


def statistics(values: list[float]) -> tuple[float, float, float]:
    """The benchmark's mean, recall and decay; its indices count from 1."""
    series = np.array(values)
    cuts = np.round(np.linspace(1, len(series), 5) + 1e-10).astype(int) - 1
    quarters = [series[cuts[i] : cuts[i + 1] + 1] for i in range(4)]
    return series.mean(), (series > 0.5).mean(), quarters[0].mean() - quarters[3].mean()


def blobs(generator: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Anything from nothing over ragged patches to everything."""
    noise = ndimage.gaussian_filter(generator.normal(size=size), generator.uniform(0.3, 5))
    return noise > np.quantile(noise, generator.choice([0.05, 0.5, 0.9, 1.0]))


@pytest.mark.parametrize("seed", range(20))
def test_j_and_f_of_random_masks(seed: int) -> None:
    generator = np.random.default_rng(seed)
    size = (int(generator.integers(1, 60)), int(generator.integers(1, 90)))
    a, b = blobs(generator, size), blobs(generator, size)
    if seed % 3 == 0:
        b = np.roll(a, generator.integers(-3, 4, 2), (0, 1))
    union = (a | b).sum()
    assert region_similarity(a, b) == pytest.approx((a & b).sum() / union if union else 1)
    assert boundary_accuracy(a, b) == pytest.approx(contour_measure(a, b), abs=1e-9)


@pytest.mark.parametrize("frames", [1, 2, 3, 5, 8, 23, 48, 104])
def test_statistics_of_random_series(frames: int) -> None:
    values = np.random.default_rng(frames).random(frames).tolist()
    found = Statistics.of(values)
    assert (found.mean, found.recall, found.decay) == pytest.approx(statistics(values), abs=1e-12)


# `batched_jaccard` and `batched_f_measure` of the benchmark authors' own package, davisinteractive
# 1.0.4, of the masks of frames 10, 15 and 19 against those five frames earlier as predictions.
KNOWN = {
    "blackswan": [
        (0.760187685, 0.59319002),
        (0.670174439, 0.414114877),
        (0.570086109, 0.269789864),
    ],
    "camel": [(0.754627816, 0.61785555), (0.76074916, 0.725121697), (0.732020162, 0.615895095)],
    "car-shadow": [
        (0.692506524, 0.405309333),
        (0.806169947, 0.697849701),
        (0.824348795, 0.724442221),
    ],
    "dog": [(0.466127666, 0.279817236), (0.385279978, 0.106012306), (0.335316003, 0.09938576)],
    "horsejump-high": [
        (0.402269536, 0.400032392),
        (0.530309007, 0.493835331),
        (0.481342903, 0.446634923),
    ],
    "motocross-jump": [
        (0.31937327, 0.140457671),
        (0.216754535, 0.046173998),
        (0.290361301, 0.124968771),
    ],
}


@pytest.mark.parametrize("clip", KNOWN)
def test_j_and_f_equal_the_official_evaluation_on_real_masks(clip: str, shared: Path) -> None:
    folder = shared / "data" / "davis16" / "Annotations" / "480p" / clip

    def mask(index: int) -> np.ndarray:
        return read_ids(folder / f"{index:05}.png", DAVIS_SIZE) > 0

    for index, (region, contour) in zip((10, 15, 19), KNOWN[clip], strict=True):
        predicted, annotated = mask(index - 5), mask(index)
        assert region_similarity(predicted, annotated) == pytest.approx(region, abs=1e-6)
        assert boundary_accuracy(predicted, annotated) == pytest.approx(contour, abs=1e-6)


def iou_by_sets(pairs: list[tuple[np.ndarray, np.ndarray]], classes: int, void: int) -> list[float]:
    result = []
    for c in range(classes):
        both = sum(int(((p == c) & (t == c)).sum()) for p, t in pairs)
        either = sum(int((((p == c) & (t != void)) | (t == c)).sum()) for p, t in pairs)
        result.append(both / either if either else math.nan)
    return result


def test_miou_of_real_labels(shared: Path) -> None:
    """Each label of the clip as a prediction of the third after it; void predicted as sky."""
    clip = CamVid(shared / "data" / "camvid", "clip_15hz")
    labels = [clip[i][1] for i in range(0, 15, 3)]
    pairs = [(np.where(a == 11, 0, a), b) for a, b in pairwise(labels)]
    matrix = ConfusionMatrix(11, 11)
    for predicted, label in pairs:
        matrix.update(predicted, label)
    expected = iou_by_sets(pairs, 11, 11)
    np.testing.assert_allclose(matrix.iou(), expected, atol=1e-12)
    assert 0.3 < matrix.miou() < 0.95
    assert matrix.miou() == pytest.approx(np.nanmean(expected), abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_pck_of_random_poses(seed: int) -> None:
    generator = np.random.default_rng(seed)
    score = PCK(15, 0.2)
    hits: list[list[bool]] = [[] for _ in range(15)]
    for _ in range(40):
        label = generator.uniform(0, 200, (15, 2))
        marks = generator.random(15) < 0.8
        predicted = label + generator.normal(0, 30, (15, 2))
        score.update(predicted, label, box_size(label, marks), marks)
        seen = [tuple(point) for point, mark in zip(label, marks, strict=True) if mark]
        wide = max(p[0] for p in seen) - min(p[0] for p in seen)
        tall = max(p[1] for p in seen) - min(p[1] for p in seen)
        for k in range(15):
            if marks[k]:
                near = math.dist(predicted[k], label[k]) <= 0.2 * max(wide, tall)
                hits[k].append(near)
    shares = [sum(own) / len(own) for own in hits]
    np.testing.assert_allclose(score.per_joint(), shares, atol=1e-12)
    assert score.mean() == pytest.approx(sum(shares) / 15, abs=1e-12)

"""The VOS pipeline against its parts run by hand, and against the float network."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from resq_core.errors import InputError, OptionError, StreamClosedError
from resq_core.evaluation import region_similarity
from resq_core.models import STM
from resq_core.pipelines import Pipeline, QuantizedStm, VosPipeline, VosResult
from resq_core.tasks import VosTask, masks_from_palette
from tests.resq_core.pipelines.scenes import SIZE, by_hand, in_float, masks, pictures

PIXELS = SIZE[0] * SIZE[1] // 256
BYTES_PER_FRAME = PIXELS * (32 + 128) * 4


def run(pipeline: VosPipeline, images: list[np.ndarray], **asked: Any) -> list[VosResult]:
    return [pipeline.step(image, **asked) for image in images]


@pytest.mark.parametrize(("objects", "size"), [(1, SIZE), (1, (60, 90)), (2, SIZE), (5, SIZE)])
def test_it_is_exactly_the_three_parts(
    model: QuantizedStm, objects: int, size: tuple[int, int]
) -> None:
    images, first = pictures(4, size), masks(objects, size)
    results = run(VosPipeline(model, first, memory_every=2), images)
    for result, want in zip(results[1:], by_hand(model, images, first, 2), strict=True):
        assert torch.equal(result.probabilities, want)
        ids = VosTask().postprocess(want, tuple(first), size)
        assert result.output.dtype == np.uint8
        assert np.array_equal(result.output, ids)
        assert set(np.unique(ids)) <= {0, *first}
    assert [r.index for r in results] == [0, 1, 2, 3]


@pytest.mark.parametrize("objects", [1, 2])
def test_with_8_bits_on_every_frame_it_follows_the_float_network(
    model: QuantizedStm, net: STM, objects: int
) -> None:
    images, first = pictures(5), masks(objects)
    pipeline = VosPipeline(model.with_precision("W8A8"), first, memory_every=2, period=1)
    results = run(pipeline, images)
    assert all(r.is_anchor and r.mean_bits == 8 for r in results)
    for result, want in zip(results[1:], in_float(net, images, first, 2), strict=True):
        assert (result.probabilities - want).abs().mean() < 0.02
        correlation = torch.corrcoef(torch.stack([result.probabilities, want]).flatten(1))
        assert correlation[0, 1] > 0.99


def test_the_first_frame_gives_its_masks_back(model: QuantizedStm) -> None:
    pipeline: Pipeline = VosPipeline(model, {3: masks(2)[1], 9: masks(2)[2]})
    result = pipeline.step(pictures(1)[0], bit_map=True, layers=True)
    assert isinstance(result, VosResult)
    assert list(masks_from_palette(result.output)) == [3, 9]
    assert np.array_equal(result.output == 3, masks(2)[1] & ~masks(2)[2])
    assert np.array_equal(result.output == 9, masks(2)[2])
    assert (result.is_anchor, result.reason, result.index) == (True, "first_frame", 0)
    assert list(result.parts) == ["Encoder_M"]
    assert result.mean_bits == result.active_fraction * 8 == 8
    assert result.bit_map is not None
    assert result.bit_map.shape == (8, 12)
    assert result.layers is not None
    assert {r.name.split(".")[0] for r in result.layers} == {"Encoder_M"}


def test_every_part_has_a_keyframe_clock_of_its_own(model: QuantizedStm) -> None:
    pipeline = VosPipeline(model, masks(1), memory_every=2, period=3)
    anchors: dict[str, list[int]] = {"Encoder_M": [], "Encoder_Q": [], "Decoder": []}
    ran: dict[str, list[int]] = {part: [] for part in anchors}
    for result in run(pipeline, pictures(9)):
        for part, own in result.parts.items():
            ran[part].append(result.index)
            if own.is_anchor:
                anchors[part].append(result.index)
        lead = result.parts.get("Encoder_Q", result.parts.get("Encoder_M"))
        assert lead is not None
        assert (result.is_anchor, result.reason) == (lead.is_anchor, lead.reason)
    assert ran["Encoder_M"] == [0, 2, 4, 6, 8]
    assert ran["Encoder_Q"] == ran["Decoder"] == list(range(1, 9))
    assert anchors["Encoder_M"] == [0, 6]
    assert anchors["Encoder_Q"] == anchors["Decoder"] == [1, 4, 7]


def test_memory_is_bounded_and_keeps_the_first_frame(model: QuantizedStm) -> None:
    pipeline = VosPipeline(model, masks(1), memory_every=1, memory_limit=3)
    seen, sizes = [], []
    for image in pictures(6):
        pipeline.step(image)
        seen.append(pipeline.remembered(1))
        sizes.append(pipeline.nbytes)
    assert seen == [(0,), (0, 1), (0, 1, 2), (0, 2, 3), (0, 3, 4), (0, 4, 5)]
    assert sizes[1] < sizes[2] == sizes[5]
    assert sizes[2] - sizes[1] == BYTES_PER_FRAME


def test_objects_come_and_go(model: QuantizedStm) -> None:
    images = pictures(6)
    pipeline = VosPipeline(model, masks(1), memory_every=4, period=100)
    run(pipeline, images[:2])
    new = np.zeros(SIZE, bool)
    new[40:60, 4:40] = True
    pipeline.add_object(7, new)
    came = pipeline.step(images[2])
    assert came.ids == pipeline.objects == (1, 7)
    assert np.array_equal(came.output == 7, new)
    assert not (came.output[new] == 1).any()
    assert came.parts["Encoder_M"].reason == "objects_changed"
    assert not came.parts["Decoder"].is_anchor  # it still ran for object 1 alone
    assert pipeline.remembered(1) == (0, 2)
    assert pipeline.remembered(7) == (2,)
    followed = pipeline.step(images[3])
    assert followed.probabilities.shape == (1, 3, *SIZE)
    assert followed.parts["Decoder"].reason == "objects_changed"
    assert not followed.is_anchor  # encoder Q does not know objects
    pipeline.remove_object(1)
    assert pipeline.objects == (7,)
    gone = pipeline.step(images[4])
    assert gone.ids == (7,)
    assert not (gone.output == 1).any()
    assert gone.parts["Decoder"].reason == "objects_changed"
    assert gone.parts["Encoder_M"].reason == "objects_changed"
    assert pipeline.remembered(1) == ()
    assert not pipeline.step(images[5]).parts["Decoder"].is_anchor


def test_another_object_in_the_same_place_of_the_batch_is_a_change_too(model: QuantizedStm) -> None:
    pipeline = VosPipeline(model, masks(1), period=100)
    run(pipeline, pictures(2))
    pipeline.add_object(2, masks(2)[2])
    pipeline.remove_object(1)
    only_given = pipeline.step(pictures(3)[2])
    assert list(only_given.parts) == ["Encoder_M"]
    assert only_given.reason == "objects_changed"
    result = pipeline.step(pictures(4)[3])
    assert result.ids == (2,)
    assert result.parts["Decoder"].reason == "objects_changed"


def test_an_id_is_never_used_again(model: QuantizedStm) -> None:
    pipeline = VosPipeline(model, masks(2))
    pipeline.step(pictures(1)[0])
    pipeline.remove_object(1)
    with pytest.raises(OptionError, match=r"id 1 was used before in this stream.*used are \[1, 2"):
        pipeline.add_object(1, masks(1)[1])
    pipeline.add_object(5, masks(1)[1])
    pipeline.remove_object(5)  # before any frame showed it
    with pytest.raises(OptionError, match="id 5 was used before"):
        pipeline.add_object(5, masks(1)[1])
    with pytest.raises(OptionError, match="object 2 is the only one"):
        pipeline.remove_object(2)
    with pytest.raises(OptionError, match=r"object 1 is not followed; followed are \[2\]"):
        pipeline.remove_object(1)
    assert pipeline.objects == (2,)


def test_what_objects_share_runs_once(model: QuantizedStm) -> None:
    reports = {}
    for objects in (1, 5):
        pipeline = VosPipeline(model, masks(objects), memory_every=1)
        results = run(pipeline, pictures(2), layers=True)
        reports[objects] = {r.name: r.macs for r in results[1].layers or ()}
        assert len(results[1].layers or ()) == len(reports[objects])
    assert reports[1].keys() == reports[5].keys()
    once = {name for name, macs in reports[1].items() if reports[5][name] == macs}
    assert all(reports[5][name] == 5 * reports[1][name] for name in reports[1].keys() - once)
    shared_stages = {
        f"Decoder.{refine}.{layer}"
        for refine in ("RF3", "RF2")
        for layer in ("convFS", "ResFS.conv1", "ResFS.conv2")
    }
    encoder = {name for name in reports[1] if name.startswith("Encoder_Q.")}
    assert reports[5] == model.macs(SIZE, 5)
    assert once == shared_stages | encoder | {"Encoder_M.conv1"}


def test_results_and_totals_add_up(model: QuantizedStm) -> None:
    pipeline = VosPipeline(model, masks(2), memory_every=2)
    results = run(pipeline, pictures(4), bit_map=True, layers=True)
    for result in results:
        assert result.bops.frame == sum(p.bops.frame for p in result.parts.values())
        assert result.bops.policy == sum(p.bops.policy for p in result.parts.values())
        macs = {name: sum(r.macs for r in p.layers or ()) for name, p in result.parts.items()}
        bits = sum(macs[name] * p.mean_bits for name, p in result.parts.items())
        assert result.mean_bits == pytest.approx(bits / sum(macs.values()))
        assert result.bops.w8a8 == 64 * sum(macs.values())
        assert 0 < result.bops_paper.frame < result.bops.frame
        assert all(p.output is None for p in result.parts.values())
    both = results[2]
    assert both.bit_map is not None
    maps = {n: both.parts[n] for n in ("Encoder_Q", "Encoder_M")}
    weights = {n: sum(r.macs for r in p.layers or ()) for n, p in maps.items()}
    want = sum(weights[n] * p.bit_map for n, p in maps.items() if p.bit_map is not None)
    torch.testing.assert_close(both.bit_map, want / sum(weights.values()))
    totals = pipeline.totals
    assert (totals.frames, totals.anchors) == (4, sum(r.is_anchor for r in results))
    assert totals.bops == sum(r.bops.frame for r in results)
    assert totals.baseline_w8a8 == sum(r.bops.w8a8 for r in results)
    assert totals.mean_bits == pytest.approx(np.mean([r.mean_bits for r in results]))
    assert pipeline.totals_paper.bops == sum(r.bops_paper.frame for r in results)


def test_options_change_in_every_part(model: QuantizedStm) -> None:
    pipeline = VosPipeline(model, masks(1), period=50, threshold=0.2, reference="keyframe")
    assert (pipeline.options.period, pipeline.options.policy.threshold) == (50, 0.2)
    assert str(pipeline.precision) == "W8A8->W8A{0,4,8}"
    run(pipeline, pictures(3))
    pipeline.update(period=2)
    assert pipeline.options.period == 2
    result = pipeline.step(pictures(4)[3])
    assert {p.reason for p in result.parts.values()} == {"period"}
    asked = pipeline.step(pictures(5)[4], anchor="client_request")
    assert {p.reason for p in asked.parts.values()} == {"client_request"}
    with pytest.raises(OptionError, match="period"):
        pipeline.update(period=0)
    assert pipeline.options.period == 2


def test_a_hold_repeats_the_keyframe(model: QuantizedStm) -> None:
    pipeline = VosPipeline(model.with_precision("W8A8->W8A0"), masks(1), period=10)
    results = run(pipeline, pictures(3))
    assert np.array_equal(results[1].output, results[2].output)
    assert results[2].bops.frame == 0


def test_closing_frees_everything(model: QuantizedStm) -> None:
    pipeline = VosPipeline(model, masks(1))
    run(pipeline, pictures(2))
    assert pipeline.nbytes > BYTES_PER_FRAME
    pipeline.close()
    assert pipeline.nbytes == 0
    for late in (
        lambda: pipeline.step(pictures(1)[0]),
        lambda: pipeline.add_object(2, masks(2)[2]),
        lambda: pipeline.remove_object(1),
    ):
        with pytest.raises(StreamClosedError):
            late()


def test_two_streams_in_two_threads_give_what_one_gives(model: QuantizedStm) -> None:
    def follow(seed: int) -> list[torch.Tensor]:
        pipeline = VosPipeline(model, masks(1), memory_every=2)
        return [r.probabilities for r in run(pipeline, pictures(4, seed=seed))]

    alone = [follow(seed) for seed in (0, 5)]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(follow, (0, 5)))
    for a, b in zip(alone, together, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert not torch.equal(alone[0][-1], alone[1][-1])


def test_a_bad_picture_costs_itself(model: QuantizedStm) -> None:
    images = pictures(3)
    clean = run(VosPipeline(model, masks(1)), images)
    pipeline = VosPipeline(model, masks(1))
    with pytest.raises(InputError, match=r"picture is \(32, 96\).* mask of object 1 is \(64, 96\)"):
        pipeline.step(images[0][:32])
    pipeline.step(images[0])
    for bad, message in (
        (pictures(1, (80, 96))[0], r"\(80, 96\) \(H, W\) and the stream's first one was \(64, 96"),
        (images[1][..., 0], "expected uint8"),
        (images[1].astype(np.float32), "expected uint8"),
    ):
        with pytest.raises(InputError, match=message):
            pipeline.step(bad)
    after = run(pipeline, images[1:])
    assert [r.index for r in after] == [1, 2]
    for a, b in zip(after, clean[1:], strict=True):
        assert torch.equal(a.probabilities, b.probabilities)
    with pytest.raises(InputError, match=r"object 2 is \(32, 96\) and the picture \(64, 96\)"):
        pipeline.add_object(2, masks(2)[2][:32])


@pytest.mark.parametrize(
    ("objects", "options", "error", "message"),
    [
        ({}, {}, OptionError, "0 objects"),
        (dict.fromkeys(range(1, 301), masks(1)[1]), {}, OptionError, "300 objects"),
        ({1: np.zeros(SIZE, bool)}, {}, InputError, "mask of object 1 is empty"),
        (masks(1), {"memory_every": 0}, OptionError, "memory_every is 0"),
        (masks(1), {"memory_limit": 1001}, OptionError, "memory_limit is 1001"),
        (masks(1), {"memory_limit": True}, OptionError, "memory_limit is True"),
        (masks(1), {"period": 0}, OptionError, "period"),
    ],
)
def test_streams_that_cannot_be_opened(
    model: QuantizedStm, objects: Any, options: Any, error: Any, message: str
) -> None:
    with pytest.raises(error, match=message):
        VosPipeline(model, objects, **options)


def test_no_more_objects_than_the_limit(model: QuantizedStm) -> None:
    objects = {}
    for i in range(32):
        objects[i + 1] = np.zeros(SIZE, bool)
        objects[i + 1][i, :4] = True
    pipeline = VosPipeline(model, objects)
    with pytest.raises(OptionError, match="there are 32 objects already"):
        pipeline.add_object(33, masks(1)[1])
    pipeline.remove_object(32)
    pipeline.add_object(33, masks(1)[1])
    assert len(pipeline.objects) == 32


def test_a_davis_sequence_from_its_first_mask(shared: Path, model: QuantizedStm) -> None:
    name = "480p/blackswan"
    frames = sorted((shared / "data/davis16/JPEGImages" / name).glob("*.jpg"))[:4]
    images = [np.asarray(Image.open(f).convert("RGB")) for f in frames]
    label = np.asarray(Image.open(shared / "data/davis16/Annotations" / name / "00000.png"))
    first = {1: label > 0}
    pipeline = VosPipeline(model, first, memory_every=2, task=VosTask(max_side=96))
    results = run(pipeline, images, bit_map=True)
    assert region_similarity(results[0].output == 1, first[1]) == 1
    for result, image in zip(results, images, strict=True):
        assert result.output.shape == image.shape[:2]
        assert result.probabilities.shape == (1, 2, 54, 96)
        assert result.bit_map is not None
        assert result.bit_map.shape == (8, 12)  # of 64x96, the padded frame
    assert pipeline.remembered(1) == (0, 2)
    assert 0 < pipeline.totals.saving < 1

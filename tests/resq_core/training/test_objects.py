from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from resq_core.errors import InputError, OptionError
from resq_core.models import STM, build
from resq_core.training import (
    Followed,
    ObjectNetwork,
    ObjectSource,
    Schedule,
    Trainer,
    followed,
    matching_error,
)
from resq_core.world import cut_out

PICTURE = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
BLUE = np.full((90, 120, 3), (0, 0, 255), np.uint8)
SIZE = 64


def red(_picture: object, size: int, _rng: object) -> np.ndarray:
    thing = np.zeros((size, size, 4), np.uint8)
    thing[size // 4 : -size // 4, size // 4 : -size // 4] = (255, 0, 0, 255)
    return thing


def source(**changes: object) -> ObjectSource:
    return ObjectSource(**({"pictures": [PICTURE], "paint": cut_out, "size": SIZE} | changes))  # type: ignore[arg-type]


def test_a_batch_has_masks_in_its_first_frames_only() -> None:
    one, same = (source().batch(5, 3, torch.Generator().manual_seed(2)) for _ in range(2))
    assert one.labels is not None
    assert torch.equal(one.frames[0], same.frames[0])
    assert [tuple(x.shape) for x in one.frames] == [(5, 5, SIZE, SIZE)] + [(5, 3, SIZE, SIZE)] * 2
    assert [(tuple(y.shape), y.dtype) for y in one.labels] == [((5, SIZE, SIZE), torch.int64)] * 3
    for slot in (1, 2):
        assert torch.equal(one.frames[0][:, 2 + slot] == 1, one.labels[0] == slot)
    assert one.labels[0].flatten(1).any(1).all()  # something to follow in every scene
    assert all(x.min() >= 0 and x.max() <= 1 for x in one.frames)


def test_nothing_moves_at_no_pace() -> None:
    still = source(pace=0.0).batch(2, 3, torch.Generator().manual_seed(2))
    assert still.labels is not None
    bends = [(a != still.labels[0]).float().mean() for a in still.labels]
    moved = source().batch(2, 3, torch.Generator().manual_seed(2)).labels
    assert moved is not None
    assert bends[2] < 0.5 * (moved[2] != moved[0]).float().mean()
    with pytest.raises(OptionError, match="pace is -1"):
        source(pace=-1.0)


def test_labels_are_where_the_things_are(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_JITTER", "_NOISE", "_LIGHT"):
        monkeypatch.setattr(f"resq_core.training.objects.{name}", 0.0)
    monkeypatch.setattr("resq_core.training.objects._PAINTED", 1.0)
    monkeypatch.setattr("resq_core.training.objects._ALONE", 0.0)
    batch = source(pictures=[BLUE], paint=red).batch(6, 3, torch.Generator().manual_seed(3))
    assert batch.labels is not None
    for frame, labels in zip(batch.frames, batch.labels, strict=True):
        reds = frame[:, 0] > 0.5
        assert (reds == (labels > 0)).float().mean() > 0.98
    moved = [(a != b).float().mean().item() for a, b in zip(*batch.labels[:2], strict=True)]
    assert min(moved) > 0


def test_some_things_are_not_followed() -> None:
    batch = source().batch(24, 1, torch.Generator().manual_seed(4))
    assert batch.labels is not None
    followed = [len(scene.unique()) - 1 for scene in batch.labels[0]]
    assert set(followed) == {1, 2}


def follow(net: ObjectNetwork, frames: list[Tensor]) -> list[Followed]:
    with torch.inference_mode():
        return net(frames)  # type: ignore[no-any-return]


def test_training_sees_what_a_stream_computes() -> None:
    torch.manual_seed(0)
    stm = build("stm", width=4)
    assert isinstance(stm, STM)
    trained = ObjectNetwork(stm, mixed=False).eval()
    batch = source().batch(4, 3, torch.Generator().manual_seed(5))
    outputs = follow(trained, batch.frames)
    for i in range(4):
        masks = batch.frames[0][i : i + 1, 3:]
        count = int(masks.amax((2, 3)).sum())
        found = torch.cat([1 - masks.sum(1, keepdim=True), masks], 1)
        memory: list[tuple[Tensor, Tensor]] = []
        for t, frame in enumerate(batch.frames):
            x = frame[i : i + 1, :3]
            with torch.inference_mode():
                if t:
                    keys, values = (torch.cat(part, 3) for part in zip(*memory, strict=True))
                    found = stm.segment(x, keys, values, count).softmax(1)
                    assert torch.allclose(
                        found[:, : 1 + count],
                        outputs[t - 1].logits[i : i + 1].softmax(1)[:, : 1 + count],
                        atol=1e-3,
                    )
                memory.append(stm.memorize(x, found, count))


def test_scenes_do_not_see_each_other() -> None:
    torch.manual_seed(1)
    stm = build("stm", width=4)
    assert isinstance(stm, STM)
    net = ObjectNetwork(stm, mixed=False).eval()
    frames = source().batch(3, 2, torch.Generator().manual_seed(6)).frames
    together = follow(net, frames)[0]
    alone = [follow(net, [x[i : i + 1] for x in frames])[0] for i in range(3)]
    logits, attention = (torch.cat(parts) for parts in zip(*alone, strict=True))
    assert torch.allclose(together.logits.softmax(1), logits.softmax(1), atol=1e-3)
    assert torch.allclose(together.attention, attention, atol=1e-4)


def test_attention_is_that_of_every_object_over_all_frames_before() -> None:
    stm = build("stm", width=4)
    assert isinstance(stm, STM)
    batch = source().batch(3, 3, torch.Generator().manual_seed(7))
    places = (SIZE // 16) ** 2
    objects = len(followed(batch.frames[0][:, 3:])[0])
    outputs = follow(ObjectNetwork(stm), batch.frames)
    for t, output in enumerate(outputs, 1):
        assert output.attention.shape == (objects, t * places, places)
        assert output.attention.dtype == torch.float32
        assert torch.allclose(output.attention.sum(1), torch.ones(()), atol=0.02)


def test_matching_is_right_where_attention_carries_the_mask() -> None:
    first, then = torch.zeros(2, 1, 32, 32)
    first[:, :16, :16] = 1
    then[:, 16:, 16:] = 1
    stays, goes = torch.eye(4)[None], torch.eye(4)[None].flip(1)
    assert matching_error(stays, [first, first]).item() == pytest.approx(-np.log(0.999), rel=1e-3)
    assert matching_error(goes, [first, then]).item() == pytest.approx(-np.log(0.999), rel=1e-3)
    wrong = -(np.log(0.001) + np.log(0.999)) / 2
    assert matching_error(stays, [first, then]).item() == pytest.approx(wrong, rel=1e-3)
    even = torch.full((1, 8, 4), 1 / 8, requires_grad=True)
    error = matching_error(even, [first, then, first])  # reads a quarter everywhere
    assert error.item() == pytest.approx(-(np.log(0.25) + 3 * np.log(0.75)) / 4, rel=1e-5)
    error.backward()  # type: ignore[no-untyped-call]
    assert even.grad is not None
    down = even.grad[0, :, 0]  # of what the object's own place reads
    assert down[0] < down[1] == down[2] == down[3]


def test_heads_learn_at_a_rate_of_their_own() -> None:
    torch.manual_seed(2)
    stm = build("stm", width=4)
    assert isinstance(stm, STM)
    net = ObjectNetwork(stm, mixed=False)
    heads = {id(p) for p in net.heads()}
    others = {id(p) for p in net.weights()}
    assert heads
    assert not heads & others
    assert heads | others == {id(p) for p in net.parameters()}
    before = {name: value.clone() for name, value in stm.named_parameters()}
    batch = source().batch(2, 2, torch.Generator().manual_seed(8))
    schedule = Schedule(2, rate=1e-2, head_rate=1e-4)
    trainer = Trainer(net, lambda y, _: y[0].logits.square().mean(), lambda _: batch, schedule)
    trainer.advance()
    moved = {name: (value - before[name]).abs().max() for name, value in stm.named_parameters()}
    for name, much in moved.items():  # Adam's first step is the rate itself
        rate = 1e-4 if name.startswith(("KV_", "Decoder")) else 1e-2
        assert much <= rate * 1.001, name
    assert moved["Decoder.pred2.weight"].item() == pytest.approx(1e-4, rel=0.01)
    assert moved["Encoder_Q.conv1.weight"].item() == pytest.approx(1e-2, rel=0.01)


def test_what_cannot_be_drawn_from_is_refused() -> None:
    with pytest.raises(InputError, match="0 pictures given"):
        source(pictures=[])
    with pytest.raises(InputError, match="a picture is 15 pixels"):
        source(pictures=[PICTURE, PICTURE[:15]])
    for size in (0, 72):
        with pytest.raises(OptionError, match=f"size is {size}; expected a multiple of 16"):
            source(size=size)


def test_somebody_cut_out() -> None:
    one, same, other = (cut_out(PICTURE, 96, np.random.default_rng(s)) for s in (7, 7, 8))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    assert (one.shape, one.dtype) == ((96, 96, 4), np.uint8)
    assert set(np.unique(one[..., 3])) == {0, 255}
    assert 0.02 < (one[..., 3] > 0).mean() < 0.5

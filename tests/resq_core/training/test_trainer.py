"""The loop, its losses, and what it draws its sequences from."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import resq_core
from resq_core.errors import InputError, OptionError, SavedModelError
from resq_core.training import (
    VOID,
    Batch,
    ClipSource,
    FloatNetwork,
    Schedule,
    StillSource,
    TrainedNetwork,
    Trainer,
    batch_of,
    distillation,
    lovasz_softmax,
    ohem_cross_entropy,
    squared_error,
)
from tests.resq_core.networks import Plain, moving_clip, seeded

SIZE = (16, 24)
SCHEDULE = Schedule(6, rate=1e-3)


def trainer(
    schedule: Schedule = SCHEDULE,
    factor: float = 1.0,
    precision: str = "W4A4->W4A4",
    about: dict[str, str] | None = None,
) -> tuple[TrainedNetwork, Trainer]:
    model = resq_core.quantize(seeded(Plain), precision, backend="reference")
    clip = moving_clip(8, 1, (1, 3, *SIZE))
    model.calibrate([clip], samples=4, points=5)
    network, source = TrainedNetwork(model, (2, 3, *SIZE)), ClipSource([clip])
    teacher = seeded(Plain)

    def loss(outputs: Sequence[Tensor], batch: Batch) -> Tensor:
        return factor * squared_error(list(outputs), [teacher(x) for x in batch.frames])

    def batches(generator: torch.Generator) -> Batch:
        return batch_of(source, 2, 3, SIZE, generator)

    return network, Trainer(network, loss, batches, schedule, about=about)


def test_an_interrupted_training_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    network, whole = trainer()
    losses = [whole.advance() for _ in range(6)]
    assert whole.done
    first, cut = trainer()
    again = [cut.advance() for _ in range(3)]
    cut.save(tmp_path / "last.pt")
    second, rest = trainer()
    rest.resume(tmp_path / "last.pt")
    again += [rest.advance() for _ in range(3)]
    assert again == losses
    assert rest.done
    for a, b in zip(network.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not all(
        torch.equal(a, b) for a, b in zip(network.parameters(), first.parameters(), strict=True)
    )


def test_checkpoints_of_another_training_are_refused(tmp_path: Path) -> None:
    _, one = trainer()
    one.save(tmp_path / "last.pt")
    _, other = trainer(Schedule(7, rate=1e-3))
    with pytest.raises(SavedModelError, match=r"'steps': 6.*expected.*'steps': 7"):
        other.resume(tmp_path / "last.pt")
    (tmp_path / "bad.pt").write_bytes(b"no checkpoint")
    with pytest.raises(SavedModelError, match=r"bad\.pt is no checkpoint"):
        one.resume(tmp_path / "bad.pt")
    assert one.step == 0


def test_a_loss_that_is_no_number_stops_before_it_spoils_anything() -> None:
    network, one = trainer(factor=float("nan"))
    before = [p.clone() for p in network.parameters()]
    with pytest.raises(OptionError, match="the loss is nan at step 0"):
        one.advance()
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    with pytest.raises(OptionError, match="rate is 0"):
        Schedule(1, rate=0)


def test_hard_pixels_are_those_that_count() -> None:
    torch.manual_seed(0)
    logits = 3 * torch.randn(2, 5, 6, 8, requires_grad=True)
    labels = torch.randint(0, 6, (2, 6, 8))  # 5 is ignored
    losses, count = [], 0
    for b in range(2):
        for y in range(6):
            for x in range(8):
                if labels[b, y, x] < 5:
                    p = logits[b, :, y, x].softmax(0)[labels[b, y, x]].item()
                    count += 1
                    if p <= 0.3:
                        losses.append(-torch.tensor(p).log().item())
    assert 0 < len(losses) < count
    found = ohem_cross_entropy(logits, labels, 5, threshold=0.3, kept=1e-9)
    assert found.item() == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    everything = ohem_cross_entropy(logits, labels, 5, threshold=1.0)
    assert everything.item() == pytest.approx(
        F.cross_entropy(logits, labels, ignore_index=5).item(), rel=1e-5
    )
    hardest = ohem_cross_entropy(logits, labels, 5, threshold=1e-9, kept=3 / count + 1e-6)
    worst = F.cross_entropy(logits, labels, ignore_index=5, reduction="none").flatten().topk(3)
    assert hardest.item() == pytest.approx(worst.values.mean().item(), rel=1e-5)
    nothing = ohem_cross_entropy(logits, torch.full_like(labels, 5), 5)
    nothing.backward()
    assert nothing.item() == 0
    large = ohem_cross_entropy(logits, labels.repeat_interleave(4, 1).repeat_interleave(4, 2), 5)
    assert torch.isfinite(large)


def test_a_student_like_its_teacher_has_nothing_to_learn() -> None:
    torch.manual_seed(0)
    teacher = torch.randn(2, 5, 6, 8)
    student = teacher.clone().requires_grad_()
    distillation(student, teacher).backward()
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-6
    assert distillation(teacher + 1, teacher).abs() < 1e-6, "scores of classes, up to a constant"
    assert distillation(-teacher, teacher) > 0.1
    assert squared_error({"a": teacher}, {"a": teacher}) == 0
    zeros = torch.zeros_like(teacher)
    assert squared_error(zeros, teacher - teacher.mean()).item() == pytest.approx(1, rel=1e-3)


def test_stretches_come_from_all_places_alike() -> None:
    clips = [torch.arange(n).float().view(n, 1, 1, 1).expand(n, 3, 4, 4) + 100 * n for n in (3, 6)]
    source, generator = ClipSource(clips), torch.Generator().manual_seed(0)
    firsts = [source.draw(3, generator).frames[:, 0, 0, 0].tolist() for _ in range(200)]
    assert all(b - a == 1 for run in firsts for a, b in pairwise(run))
    assert {run[0] for run in firsts} == {300.0, 600.0, 601.0, 602.0, 603.0}
    with pytest.raises(InputError, match="the longest clip has 6 frames; expected at least 7"):
        source.draw(7, generator)
    with pytest.raises(InputError, match="0 clips"):
        ClipSource([])


def test_a_still_picture_stands_or_moves_evenly() -> None:
    rows = torch.linspace(-1, 1, 64).view(1, 64, 1).expand(3, 64, 96)
    source, generator = StillSource([rows], reach=0.05), torch.Generator().manual_seed(3)
    still = 0
    for _ in range(40):
        means = source.draw(4, generator).frames[:, 0, 16:48].mean((1, 2))
        steps = means.diff()
        still += bool((steps.abs() < 1e-6).all())
        assert (steps - steps.mean()).abs().max() < 0.02
    assert 10 < still < 30
    with pytest.raises(InputError, match="0 pictures"):
        StillSource([])


def test_batches_are_cropped_and_flipped_alike_in_all_frames() -> None:
    x = torch.arange(24.0).view(1, 1, 1, 24) + 100 * torch.arange(16.0).view(1, 1, 16, 1)
    source = ClipSource([x.expand(5, 3, 16, 24)])
    generator = torch.Generator().manual_seed(0)
    corners = set()
    for _ in range(20):
        frames = batch_of(source, 2, 3, (8, 12), generator).frames
        assert [tuple(f.shape) for f in frames] == [(2, 3, 8, 12)] * 3
        assert all(torch.equal(frames[0], f) for f in frames)
        corners |= {f[0, 0, 0].item() - f[0, 0, 1].item() for f in frames[0]}
    assert corners == {-1.0, 1.0}
    with pytest.raises(InputError, match="frames are 24x16; expected at least the crop, 32x8"):
        batch_of(source, 1, 3, (8, 32), generator)


def test_a_state_of_another_precision_is_refused(tmp_path: Path) -> None:
    """Its scales have the same shapes."""
    _, one = trainer()
    one.save(tmp_path / "last.pt")
    _, other = trainer(precision="W4A4->W4A3")
    with pytest.raises(SavedModelError, match=r"W4A4->W4A4.*expected.*W4A4->W4A3"):
        other.resume(tmp_path / "last.pt")
    _, labelled = trainer(about={"towards": "labels"})
    with pytest.raises(SavedModelError, match=r"expected.*'towards': 'labels'"):
        labelled.resume(tmp_path / "last.pt")


def test_labels_move_with_their_picture() -> None:
    """Classes are told from the picture's own colours, so every frame can be checked."""
    classes = (torch.arange(96).view(1, 96) // 24 + torch.arange(64).view(64, 1) // 32 * 4).byte()
    classes[:, 90:] = VOID
    picture = classes.float().expand(3, -1, -1).contiguous()
    source = StillSource([picture], [classes], reach=0.03, scales=(0.6, 2.0))
    generator, void = torch.Generator().manual_seed(0), 0
    for _ in range(20):
        batch = batch_of(source, 2, 3, (48, 64), generator)
        assert batch.labels is not None
        for x, labels in zip(batch.frames, batch.labels, strict=True):
            assert labels.dtype == torch.int64
            known = labels != VOID
            void += int((~known).sum())
            agree = (x[:, 0][known] - labels[known]).abs() < 0.5
            assert agree.float().mean() > 0.93, "all but where classes meet"
    assert void, "the right edge, and beyond the picture"
    assert batch_of(StillSource([picture]), 1, 2, (48, 64), generator).labels is None
    with pytest.raises(InputError, match="2 label maps of 1 pictures"):
        StillSource([picture], [classes, classes])
    with pytest.raises(InputError, match=r"labels 0 are \[5, 96\] and their picture \[64, 96\]"):
        StillSource([picture], [classes[:5]]).draw(1, generator)
    with pytest.raises(OptionError, match=r"scales are \(2, 1\)"):
        StillSource([picture], [classes], scales=(2, 1))


def test_jitter_changes_colours_and_no_shape() -> None:
    torch.manual_seed(0)
    picture = torch.randn(3, 32, 48)
    plain = StillSource([picture]).draw(3, torch.Generator().manual_seed(1)).frames
    vivid = StillSource([picture], jitter=0.3).draw(3, torch.Generator().manual_seed(1)).frames
    assert not torch.allclose(plain, vivid)
    for a, b in zip(plain, vivid, strict=True):
        both = torch.stack((a.mean(0).flatten(), b.mean(0).flatten()))
        assert torch.corrcoef(both)[0, 1] > 0.999


def test_the_lovasz_loss_of_sure_answers_is_one_minus_iou() -> None:
    """Berman et al.: on the corners of the cube the extension is the Jaccard loss itself."""
    torch.manual_seed(0)
    truth = torch.randint(0, 4, (2, 8, 10))
    found = torch.where(torch.rand(2, 8, 10) < 0.7, truth, torch.randint(0, 4, (2, 8, 10)))
    truth[0, 0] = VOID
    logits = 100 * F.one_hot(found, 4).permute(0, 3, 1, 2).float()
    counted = truth != VOID
    ious = []
    for k in range(4):
        a, b = (truth == k) & counted, (found == k) & counted
        ious.append(((a & b).sum() / (a | b).sum()).item())
    expected = 1 - sum(ious) / len(ious)
    assert lovasz_softmax(logits, truth, VOID).item() == pytest.approx(expected, abs=1e-5)
    soft = torch.randn(2, 4, 8, 10, requires_grad=True)
    lovasz_softmax(soft, truth, VOID).backward()
    assert soft.grad is not None
    assert torch.isfinite(soft.grad).all()
    assert lovasz_softmax(soft, torch.full_like(truth, VOID), VOID) == 0
    sure = 5 * F.one_hot(found, 4).permute(0, 3, 1, 2).float()  # left out: less than that
    every = lovasz_softmax(sure, truth, VOID, least=0).item()
    assert lovasz_softmax(sure, truth, VOID, least=0.02).item() == pytest.approx(every, abs=0.02)


@pytest.mark.parametrize("mixed", [False, True])
def test_a_float_network_learns_and_its_average_is_kept(tmp_path: Path, mixed: bool) -> None:
    classes = torch.zeros(32, 48, dtype=torch.uint8)
    classes[8:24, 12:36] = 1
    picture = torch.stack([classes.float()] * 3) + 0.1
    source = StillSource([picture], [classes])
    schedule = Schedule(60, rate=0.02, warm_up=5, weight_decay=0.01, average=0.9)

    def made() -> tuple[FloatNetwork, Trainer[FloatNetwork]]:
        torch.manual_seed(0)
        layers = (nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 1))
        network = FloatNetwork(nn.Sequential(*layers), mixed)

        def loss(outputs: Sequence[Tensor], batch: Batch) -> Tensor:
            assert batch.labels is not None
            return ohem_cross_entropy(outputs[0], batch.labels[0], VOID)

        batches = lambda g: batch_of(source, 2, 1, (24, 32), g)  # noqa: E731
        return network, Trainer(network, loss, batches, schedule)

    network, trainer = made()
    losses = [trainer.advance() for _ in range(30)]
    trainer.save(tmp_path / "last.pt")
    losses += [trainer.advance() for _ in range(30)]
    assert losses[-1] < losses[0] / 2
    assert trainer.result is not network
    kept = trainer.result.network.eval()
    found = kept(picture[None]).argmax(1)[0]
    assert (found == classes).float().mean() > 0.95
    _, again = made()
    again.resume(tmp_path / "last.pt")
    while not again.done:
        again.advance()
    states = kept.state_dict().values(), again.result.network.state_dict().values()
    for a, b in zip(*states, strict=True):
        assert torch.equal(a, b)


def test_the_rates_rise_and_fall() -> None:
    schedule = Schedule(100, rate=1.0, warm_up=9)
    assert schedule.factor(0) == pytest.approx(0.1)
    assert schedule.factor(9) == pytest.approx(0.91**0.9)
    assert schedule.factor(50) == pytest.approx(0.5**0.9)
    assert schedule.factor(100) == 0
    with pytest.raises(OptionError, match="average 1"):
        Schedule(1, average=1)

from __future__ import annotations

import hashlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from resq_core.errors import OptionError
from resq_core.world import JOINTS, LIMBS, Street, StreetFrame
from resq_core.world.camera import Camera
from resq_core.world.canvas import Canvas
from resq_core.world.cars import Car, paint_car
from resq_core.world.plan import Cls

MOVERS = {int(Cls.CAR), int(Cls.PEDESTRIAN), int(Cls.BICYCLIST)}


def fingerprint(frame: StreetFrame) -> str:
    digest = hashlib.sha256(frame.image.tobytes())
    digest.update(frame.classes.tobytes() + frame.instances.tobytes())
    for person in frame.people:
        digest.update(person.joints.tobytes() + person.visible.tobytes())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def still() -> Street:
    return Street(seed=0)


@pytest.fixture(scope="module")
def drive() -> Street:
    return Street(seed=0, camera="moving")


@pytest.mark.parametrize("camera", ["static", "moving"])
def test_a_frame_depends_on_its_time_alone(camera: str) -> None:
    forwards, backwards = Street(3, camera=camera), Street(3, camera=camera)
    one = [fingerprint(forwards.frame(t)) for t in (0, 7, 50)]
    two = [fingerprint(backwards.frame(t)) for t in (50, 7, 0)]
    assert one == two[::-1]
    assert len(set(one)) == 3
    assert fingerprint(Street(4, camera=camera).frame(7)) != one[1]


def test_another_process_draws_the_same(still: Street) -> None:
    code = (
        "from resq_core.world import Street; import hashlib; f = Street(0).frame(9);"
        "print(hashlib.sha256(f.image.tobytes()).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == hashlib.sha256(still.frame(9).image.tobytes()).hexdigest()


@pytest.mark.parametrize("size", [(64, 64), (90, 160), (121, 75), (480, 640)])
def test_shapes_and_types(size: tuple[int, int]) -> None:
    frame = Street(1, size=size).frame(30)
    assert (frame.image.shape, frame.image.dtype) == ((*size, 3), np.uint8)
    assert (frame.classes.shape, frame.classes.dtype) == (size, np.uint8)
    assert (frame.instances.shape, frame.instances.dtype) == (size, np.uint16)
    for person in frame.people:
        assert (person.joints.shape, person.joints.dtype) == ((15, 2), np.float32)
        assert (person.visible.shape, person.visible.dtype) == ((15,), np.bool_)


def test_masks_agree_with_each_other(still: Street, drive: Street) -> None:
    for street, t in ((still, 60), (still, 100), (drive, 60)):
        frame = street.frame(t)
        assert set(np.unique(frame.classes)) <= set(range(11))
        mover = np.isin(frame.classes, list(MOVERS))
        assert np.array_equal(mover, frame.instances > 0)
        for instance in np.unique(frame.instances)[1:]:
            assert len(np.unique(frame.classes[frame.instances == instance])) == 1


def test_joints_lie_on_their_person(still: Street, drive: Street) -> None:
    seen = 0
    for street in (still, drive):
        frame = street.frame(75)
        for person in frame.people:
            own = frame.instances == person.instance
            for (x, y), visible in zip(person.joints, person.visible, strict=True):
                inside = 0 <= x < 480 and 0 <= y < 360
                assert not visible or inside
                if visible:
                    seen += 1
                    around = own[max(int(y) - 1, 0) : int(y) + 2, max(int(x) - 1, 0) : int(x) + 2]
                    assert around.any()
            if own.sum() > 400:
                assert person.visible.mean() > 0.5
                assert frame.classes[own][0] == Cls.PEDESTRIAN
    assert seen > 100


def test_what_is_hidden_is_not_visible(still: Street) -> None:
    hidden = 0
    for t in range(60, 120, 10):
        frame = still.frame(t)
        for person in frame.people:
            inside = (person.joints >= 0).all(1) & (person.joints < (480, 360)).all(1)
            hidden += int((inside & ~person.visible).sum())
    assert hidden > 20, "a car and a lamp post stand in front of somebody at some time"


def test_every_class_is_to_be_seen(still: Street, drive: Street) -> None:
    found: set[int] = set()
    for street in (still, drive):
        for t in range(0, 200, 40):
            found |= set(np.unique(street.frame(t).classes).tolist())
    assert found == set(range(11))


def test_a_static_camera_sees_a_still_background() -> None:
    street = Street(seed=2, noise=0.0)
    first, later = street.frame(0), street.frame(40)
    same = np.all(first.image == later.image, axis=2)
    moved = (first.instances > 0) | (later.instances > 0)
    # half a pixel of sky, leaves or somebody is in the pixels next to them
    moving = moved | np.isin(first.classes, (Cls.SKY, Cls.TREE)) | (first.classes != later.classes)
    still = ~grown(moving, 2)
    upright = still & np.isin(first.classes, (Cls.BUILDING, Cls.POLE, Cls.SIGN))
    ground = still & np.isin(first.classes, (Cls.ROAD, Cls.PAVEMENT))
    assert upright.sum() > 20_000
    assert same[upright].mean() > 0.999
    assert same[ground].mean() > 0.95, "more than the shadows of movers has changed"
    assert not same[moved].all()


def grown(mask: np.ndarray[Any, np.dtype[np.bool_]], by: int) -> np.ndarray[Any, Any]:
    """A mask and what is within some rows and columns of it."""
    padded = np.pad(mask, by)
    height, width = mask.shape
    shifts = range(2 * by + 1)
    parts = [padded[r : r + height, c : c + width] for r in shifts for c in shifts]
    return np.logical_or.reduce(parts)


def test_clouds_drift_and_leaves_stir() -> None:
    street = Street(seed=0, noise=0.0)
    first, later = street.frame(0), street.frame(20)
    sky = (first.classes == Cls.SKY) & (later.classes == Cls.SKY)
    drift = np.abs(first.image.astype(int) - later.image).max(2)
    assert drift[sky].max() > 0
    assert drift[sky].mean() < 6, "clouds have no hurry"
    leaves = (first.classes == Cls.TREE) != (later.classes == Cls.TREE)
    assert 50 < leaves.sum() < 8_000


@pytest.mark.parametrize("x", [-2.5, 0.4, 3.5])
@pytest.mark.parametrize("ahead", [-1, 1])
def test_a_car_has_no_holes(x: float, ahead: int) -> None:
    canvas = Canvas(Camera(0.0, 1.6, 0.0, 0.0, 0.02, (240, 320)))
    paint_car(canvas, Car(x, 9.0, ahead, 7, (90, 100, 120)))
    own = np.pad(canvas.instances() == 7, 1)
    runs = (own[1:] & ~own[:-1]).sum(0)
    assert own.sum() > 1500
    assert runs.max() == 1, "something behind the car is seen through it"


def test_sensor_noise_is_what_was_asked_for() -> None:
    clean = Street(seed=0, noise=0.0).frame(5).image.astype(np.float32)
    for noise in (1.0, 4.0):
        noisy = Street(seed=0, noise=noise).frame(5).image
        middle = (clean > 100) & (clean < 160)
        measured = float((noisy - clean)[middle].std())
        assert measured == pytest.approx(noise, rel=0.15)


def test_a_moving_camera_never_reaches_the_end(drive: Street) -> None:
    for t in (0, 5_000, 100_000):
        frame = drive.frame(t)
        shares = np.bincount(frame.classes.ravel(), minlength=11) / frame.classes.size
        assert shares[Cls.ROAD] > 0.2
        assert shares[Cls.BUILDING] > 0.05
        assert shares[Cls.PAVEMENT] > 0.02
    a, b = drive.frame(10).image.astype(int), drive.frame(12).image.astype(int)
    assert np.abs(a - b).mean() > 3


def test_people_keep_their_id_and_walk_smoothly(still: Street) -> None:
    before = {p.instance: p for p in still.frame(30).people}
    steps = []
    for t in range(31, 46):
        now = {p.instance: p for p in still.frame(t).people}
        for instance in before.keys() & now.keys():
            a, b = before[instance].joints, now[instance].joints
            size = np.ptp(b[:, 1])
            steps.append(np.abs(a - b).max() / size)
        assert len(before.keys() & now.keys()) >= 0.7 * len(before)
        before = now
    assert max(steps) < 0.35, "a joint jumped by more than a third of its person's height"
    assert np.median(steps) > 0.01, "nobody walks"


def test_joints_are_named_in_order() -> None:
    assert len(JOINTS) == 15
    assert JOINTS[:5] == ("neck", "belly", "face", "right_shoulder", "left_shoulder")
    assert {i for limb in LIMBS for i in limb} == set(range(15))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"seed": -1}, "seed is -1"),
        ({"size": (10, 480)}, r"size is \(10, 480\)"),
        ({"camera": "orbit"}, "camera is 'orbit'; expected static or moving"),
        ({"fps": 0}, "fps is 0"),
        ({"noise": float("nan")}, "noise is nan"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        Street(**options)


def test_time_begins_at_zero(still: Street) -> None:
    with pytest.raises(OptionError, match="t is -1"):
        still.frame(-1)

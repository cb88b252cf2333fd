from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import resq_core
from resq_core import QuantizedModel, errors
from resq_core.encodings import Encodings, Role, Slot
from resq_core.linear_op import Kind, LinearOp
from resq_core.quantizer import fake_quantize
from resq_core.ranges import search_scale
from tests.resq_core.networks import Everything, Plain, moving_clip, seeded

LAYERS = ("first", "second")


@pytest.fixture(scope="module")
def model() -> QuantizedModel:
    q = resq_core.quantize(seeded(Plain), "W8A8->W8A{0,4,8}", period=4)
    q.calibrate([moving_clip(6)], samples=6, also=["W8A8->W4A4"])
    return q


def test_the_search_finds_the_best_of_its_candidates() -> None:
    torch.manual_seed(0)
    op = LinearOp("op", Kind.LINEAR, torch.randn(5, 4), None)
    x = torch.randn(500, 4)
    x[0, 0] = 12.0  # an outlier that a min-max range would follow
    extremes = (x.min().item(), x.max().item())
    found = search_scale(op, [x], extremes, 4, op.weight)
    assert found is not None

    def error(scale: float) -> float:
        return (op.apply(fake_quantize(x, scale, 4) - x, op.weight)).square().sum().item()

    tried = [2 * abs(r) / 15 for r in torch.linspace(*extremes, 20).tolist()]
    assert error(found) == pytest.approx(min(map(error, tried)))
    assert error(found) < error(2 * 12.0 / 15)


def test_a_mix_of_still_and_moving_clips_clips_less_than_a_still_one() -> None:
    still = moving_clip(1).repeat(6, 1, 1, 1)
    still += 0.002 * torch.randn(still.shape, generator=torch.Generator().manual_seed(3))
    lively = moving_clip(6, 5) * torch.linspace(0.5, 1.5, 6)[:, None, None, None]
    clipped = {}
    for name, clips in {"still": [still], "mix": [still, lively]}.items():
        q = resq_core.quantize(seeded(Plain), "W8A8->W8A8", period=6, grid="free")
        q.calibrate(clips, samples=12)
        stream = q.stream(reference="keyframe")
        clipped[name] = sum(stream.step(lively[i : i + 1]).clipped_fraction for i in range(6))
    assert clipped["still"] > 0.2
    assert clipped["mix"] < clipped["still"] / 10


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_inputs_without_a_sign_get_all_the_codes(backend: str, tmp_path: Path) -> None:
    """Behind a ReLU half of the signed codes would never be used; the network's own input is
    signed, 8 bits stay so, and the file remembers.
    """
    clip, errors_of = moving_clip(6), {}
    for unsigned in (False, True):
        q = resq_core.quantize(seeded(Plain), "W8A4", backend=backend)
        q.calibrate([clip], samples=6, also=["W8A8", "W4A4->W3A3"], unsigned=unsigned)
        wanted = [{"first": True, "second": not (unsigned and bits < 8)} for bits in (4, 8, 4)]
        found = [
            {name: q.encodings.signed(Slot(Role.FRAME, w, a), name) for name in LAYERS}
            for w, a in ((8, 4), (8, 8), (4, 4))
        ]
        assert found == wanted
        assert all(q.encodings.signed(Slot(Role.RESIDUAL, 3, 3), name) for name in LAYERS)
        q.save(tmp_path / "q.resq")
        again = resq_core.load(tmp_path / "q.resq", model=Plain(), backend=backend)
        assert again.encodings == q.encodings
        outputs = [again.stream().step(frame[None]).output for frame in clip]
        gaps = [(z - q.float(x[None])).square().mean() for z, x in zip(outputs, clip, strict=True)]
        errors_of[unsigned] = float(torch.stack(gaps).mean())
    assert errors_of[True] < 0.75 * errors_of[False]


def test_calibrating_again_with_a_sign_takes_it_back() -> None:
    q = resq_core.quantize(seeded(Plain), "W8A4")
    q.calibrate([moving_clip(2)], samples=2, also=["W4A4"], unsigned=True)
    q.calibrate([moving_clip(2)], samples=2)
    signed = [q.encodings.signed(Slot(Role.FRAME, bits, 4), "second") for bits in (8, 4)]
    assert signed == [True, False]


def test_a_network_that_sees_only_zeros_still_gets_quantizers() -> None:
    q = resq_core.quantize(seeded(Plain), "W8A8->W8A{0,4,8}")
    q.calibrate([torch.zeros(3, 3, 8, 8)], samples=2)
    result = q.stream().step(torch.zeros(1, 3, 8, 8))
    assert bool(torch.isfinite(result.output).all())


def test_calibration_is_reproducible() -> None:
    def fit() -> dict[str, object]:
        q = resq_core.quantize(seeded(Everything), "W8A8->W8A4")
        q.calibrate([moving_clip(6)], samples=4)
        return q.encodings.to_json()

    assert fit() == fit()


@pytest.mark.parametrize("clips", [[], [moving_clip(1)], [[moving_clip(1)]]])
def test_too_little_video(clips: list[torch.Tensor]) -> None:
    q = resq_core.quantize(seeded(Plain), "W8A8->W8A4")
    with pytest.raises(errors.CalibrationError, match="2 or more frames"):
        q.calibrate(clips)


def test_missing_scales_are_named(model: QuantizedModel) -> None:
    with pytest.raises(errors.CalibrationError, match=r"residual W8A3.*also="):
        model.with_precision("W8A8->W8A3")
    with pytest.raises(errors.CalibrationError, match="not calibrated"):
        resq_core.quantize(seeded(Plain), "W8A8").stream()


def test_nan_in_weights_names_the_tensor() -> None:
    module = seeded(Plain)
    with torch.no_grad():
        next(module.second.parameters())[0] = torch.nan  # type: ignore[union-attr, operator, arg-type]
    with pytest.raises(errors.CheckpointError, match=r"second\.weight.*NaN"):
        resq_core.quantize(module, "W8A8")


def test_saving_and_loading_give_the_same_model(model: QuantizedModel, tmp_path: Path) -> None:
    path = tmp_path / "model.resq"
    model.save(path)
    loaded = resq_core.load(path, model=Plain())
    assert loaded.precision == model.precision
    assert loaded.options == model.options
    assert loaded.encodings == model.encodings
    clip = moving_clip(5)
    a, b = model.stream(), loaded.with_precision("W8A8->W8A{0,4,8}").stream()
    for i in range(5):
        assert torch.equal(a.step(clip[i : i + 1]).output, b.step(clip[i : i + 1]).output)


def test_weights_take_half_the_place_where_that_loses_nothing(tmp_path: Path) -> None:
    network = Plain()
    with torch.no_grad():
        kept, *rounded = network.parameters()
        kept.view(-1)[0] = 1 + 2**-20  # no float16 has that
        for tensor in rounded:
            tensor.copy_(tensor.half())
    q = resq_core.quantize(network, "W8A8")
    q.calibrate([moving_clip(2)], samples=1, points=3)
    q.save(tmp_path / "model.resq")
    with safe_open(tmp_path / "model.resq", framework="pt") as file:
        types = [file.get_tensor(name).dtype for name, _ in network.named_parameters()]
    assert types == [torch.float32] + [torch.float16] * len(rounded)
    loaded = resq_core.load(tmp_path / "model.resq", model=Plain())
    for name, tensor in loaded.module.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, network.state_dict()[name])


def test_a_registered_network_needs_no_module_to_load(tmp_path: Path) -> None:
    network = resq_core.models.build("ddrnet23_slim", num_classes=3)
    q = resq_core.quantize(network, "W8A8")
    q.calibrate([torch.randn(2, 3, 32, 32)], samples=1, points=3)
    q.save(tmp_path / "model.resq")
    loaded = resq_core.load(tmp_path / "model.resq")
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(loaded.float(x), q.float(x))


def scales(layers: dict[str, float]) -> dict[str, object]:
    return {"granularity": "channel", "about": {}, "scales": {"frame W8A8": layers}}


def rewritten(path: Path, **changes: object) -> Path:
    """A copy of a saved model with other header fields or weights; `...` drops a field."""
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["resq"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    tensors.update({k: v for k, v in changes.items() if isinstance(v, torch.Tensor)})
    header.update({k: v for k, v in changes.items() if not isinstance(v, torch.Tensor)})
    other = path.with_name("changed.resq")
    header = {k: v for k, v in header.items() if v is not ...}
    save_file(tensors, other, {"resq": json.dumps(header)})
    return other


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 99}, "version 99"),
        ({"format": "other"}, "format 'other'"),
        ({"encodings": ...}, "header of"),
        ({"encodings": scales({"first": -1})}, "above 0"),
        ({"encodings": scales({"x": 1})}, "unknown layers"),
        (
            {"encodings": scales({"first": 1}) | {"unsigned": {"frame W8A8": ["first"]}}},
            "cannot be unsigned",
        ),
        (
            {"encodings": scales({"first": 1}) | {"unsigned": {"frame W8A4": ["first"]}}},
            "the encodings are damaged",
        ),
        ({"first.weight": torch.full((8, 3, 3, 3), torch.inf)}, "first.weight"),
        ({"first.weight": torch.zeros(8, 5, 3, 3)}, "does not fit Plain"),
        ({"options": {}}, "lacks the option"),
    ],
)
def test_files_that_cannot_be_right(
    model: QuantizedModel, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    path = tmp_path / "model.resq"
    model.save(path)
    with pytest.raises(errors.SavedModelError, match=message):
        resq_core.load(rewritten(path, **changes), model=Plain())


def test_files_that_are_no_models(tmp_path: Path) -> None:
    path = tmp_path / "x.resq"
    with pytest.raises(FileNotFoundError):
        resq_core.load(path)
    path.write_bytes(b"not a model")
    with pytest.raises(errors.SavedModelError, match="not a saved model, or damaged"):
        resq_core.load(path)
    save_file({"w": torch.zeros(1)}, path)
    with pytest.raises(errors.SavedModelError, match="weights only"):
        resq_core.load(path)


def test_encodings_of_parts_go_into_one_and_come_out_again() -> None:
    parts = {}
    for name, also in (("first", ["W8A8->W8A4"]), ("second", [])):
        q = resq_core.quantize(seeded(Plain), "W8A4")
        q.calibrate([moving_clip(2)], samples=1, also=also, unsigned=name == "first")
        parts[name] = q.encodings
    joined = Encodings.joined(parts)
    assert [str(slot) for slot in joined.scales] == ["frame W8A4"]  # what both of them have
    [slot] = joined.scales
    assert [layer for layer in joined.scales[slot] if not joined.signed(slot, layer)] == [
        "first.second"
    ]
    joined.require_layers([f"{part}.{layer}" for part in parts for layer in LAYERS])
    assert joined.part("second") == parts["second"]
    assert Encodings.from_json(joined.to_json()) == joined


def test_factors_by_layer_are_saved_and_used(model: QuantizedModel, tmp_path: Path) -> None:
    clip = moving_clip(4, 9)

    def bits(q: QuantizedModel, **options: float) -> list[float]:
        stream = q.stream(**options)
        for i in range(3):
            stream.step(clip[i : i + 1])
        reports = stream.step(clip[3:], layers=True).layers
        assert reports is not None
        return [report.mean_bits for report in reports]

    assert "factors" not in model.saved_options()
    tuned = model.with_options(model.options.but(threshold=0.1, factors={"second": 50.0}))
    plain, layered = bits(model, threshold=0.1), bits(tuned)
    assert layered[0] == plain[0]
    assert layered[1] < plain[1]
    assert bits(tuned, threshold=0.0) == bits(model, threshold=0.0)  # factors of nothing
    tuned.save(tmp_path / "tuned.resq")
    again = resq_core.load(tmp_path / "tuned.resq", seeded(Plain))
    assert again.options == tuned.options
    assert bits(again) == layered
    other = again.options.but(policy="paper")  # factors belong to the policy they were fitted for
    assert other.policy.factors == {}


def test_factors_of_layers_that_there_are_not(model: QuantizedModel, tmp_path: Path) -> None:
    with pytest.raises(errors.OptionError, match=r"the layers \['third'\].*\['first', 'second'\]"):
        model.with_options(model.options.but(factors={"third": 2.0}))
    with pytest.raises(errors.OptionError, match="third"):
        model.stream(factors={"third": 2.0})
    for factors in ({"third": 2.0}, {"second": -1.0}, 7):
        rewrite(model, tmp_path / "bad.resq", factors)
        with pytest.raises(errors.SavedModelError, match=r"bad\.resq: "):
            resq_core.load(tmp_path / "bad.resq", seeded(Plain))


def rewrite(model: QuantizedModel, path: Path, factors: object) -> None:
    """A saved model whose header has these factors."""
    model.save(path)
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["resq"])
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    header["options"]["factors"] = factors
    save_file(weights, path, metadata={"resq": json.dumps(header)})

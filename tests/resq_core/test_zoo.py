from __future__ import annotations

from pathlib import Path

import pytest

from resq_core import QuantizedModel, zoo
from resq_core.errors import OptionError, UnknownModelError
from resq_core.models import names as networks
from resq_core.pipelines import QuantizedStm

CARDS = Path(__file__).parents[2] / "docs" / "models"
MOST = 15_000_000  # bytes of a model that ships


@pytest.mark.parametrize("name", zoo.names())
def test_a_model_is_small_and_runs_at_all_its_precisions(name: str) -> None:
    card = zoo.card(name)
    assert card.architecture in networks()
    path = zoo.PACKAGED.path(name)
    assert path.stat().st_size < MOST
    model: QuantizedModel | QuantizedStm
    model = QuantizedStm.load(path) if card.task == "vos" else zoo.load(name)
    assert str(model.precision) == card.precisions[0]
    for precision in card.precisions:
        assert str(model.with_precision(precision).precision) == precision


@pytest.mark.parametrize("name", zoo.names())
def test_a_card_says_what_it_was_made_of_and_how_it_does(name: str) -> None:
    card = zoo.card(name)
    assert card.licence
    assert len(card.data) > 50
    assert len(card.training) > 50
    assert str(card.metrics["command"]).startswith("resq ")
    assert [value for value in card.metrics.values() if isinstance(value, float)]
    page = (CARDS / f"{name}.md").read_text("utf-8")
    for part in ("Trained on", "Calibrated on", "Weak at"):
        assert part in page


def test_what_is_not_there_is_said() -> None:
    with pytest.raises(UnknownModelError, match="street"):
        zoo.card("../secrets")
    card = zoo.card("street")
    assert len(card.classes) == len(card.palette) == 11


def test_a_model_of_three_networks_says_how_it_is_loaded() -> None:
    way = r"QuantizedStm\.load\(zoo\.PACKAGED\.path\('anything'\)"
    with pytest.raises(OptionError, match=way):
        zoo.load("anything")

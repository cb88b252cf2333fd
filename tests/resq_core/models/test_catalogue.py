from __future__ import annotations

import pytest
from pydantic import ValidationError

from resq_core.errors import UnknownModelError
from resq_core.models.catalogue import PublishedWeights, entries, entry
from resq_core.models.likeness import expected

JOINTS = {"coco17": 17, "mpii16": 16, "aic14": 14}


def test_every_entry_builds() -> None:
    for known in {(e.arch, *e.options.items()): e for e in entries()}.values():
        assert expected(known.arch, **known.options)


def test_names_and_files_are_one_thing_each() -> None:
    assert len({e.name for e in entries()}) == len(entries()) == 19
    assert len({e.file for e in entries()}) == len({(e.url, e.file) for e in entries()})


@pytest.mark.parametrize("known", entries(), ids=lambda e: e.name)
def test_an_entry_makes_sense(known: PublishedWeights) -> None:
    assert known.metrics
    assert known.sha256 or not known.sha256_advisory
    assert known.options.get("num_joints") == JOINTS.get(known.labels or "")
    assert known.options.get("num_classes") == (19 if known.labels == "cityscapes19" else None)
    archive = known.file.endswith((".zip", ".tar.gz"))
    assert archive == (known.archive_member is not None)
    assert known.non_commercial == ("NC" in known.licence)


def test_only_stm_is_for_non_commercial_use_by_its_licence() -> None:
    assert [e.name for e in entries() if e.non_commercial] == ["stm"]


def test_an_unknown_name_lists_what_exists() -> None:
    assert entry("stm").arch == "stm"
    with pytest.raises(UnknownModelError, match=r"'ddrnet'; there are: .*ddrnet23-cityscapes-mm"):
        entry("ddrnet")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arch": "ddrnet"}, "no network is called 'ddrnet'"),
        ({"options": {"aux": True}}, "has no option aux"),
        ({"url": "http://example.org/w"}, "url"),
        ({"file": "../w.pth"}, "file"),
        ({"file": ".."}, "file"),
        ({"sha256": "81c5"}, "sha256"),
        ({"name": "../stm"}, "name"),
        ({"extra": 1}, "extra"),
    ],
)
def test_what_an_entry_may_not_hold(change: dict[str, object], message: str) -> None:
    content = entries()[0].model_dump(mode="json") | change
    with pytest.raises(ValidationError, match=message):
        PublishedWeights.model_validate(content)

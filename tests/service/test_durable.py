from __future__ import annotations

from pathlib import Path

import pytest

from service.durable import AppendFile, DamagedError, Mark, holds


def test_a_torn_tail_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "x"
    file = AppendFile(path)
    file.append(b"one\n")
    mark = file.sync()
    file.append(b"two\nth")
    file.close()
    file = AppendFile(path, mark)
    assert path.read_bytes() == b"one\n"
    file.append(b"2\n")
    after = file.sync()
    file.close()
    assert path.read_bytes() == b"one\n2\n"
    assert holds(path, mark)
    assert holds(path, after)
    AppendFile(path).close()
    assert path.read_bytes() == b""


@pytest.mark.parametrize("data", [b"", b"on", b"onE\ntwo\n"])
def test_damage_before_the_mark_is_seen_and_left_alone(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x"
    file = AppendFile(path)
    file.append(b"one\n")
    mark = file.sync()
    file.close()
    path.write_bytes(data)
    with pytest.raises(DamagedError, match="4 known bytes"):
        AppendFile(path, mark)
    assert path.read_bytes() == data
    path.unlink()
    assert not holds(path, mark)
    assert holds(path, Mark())

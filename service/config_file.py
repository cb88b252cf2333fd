"""A TOML file of settings as its writer left it; what is wrong with it is collected, not raised."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_origin

from pydantic.fields import FieldInfo

from resq_core.naming import nearest

__all__ = ["parse_toml", "read_file"]

_MAX_BYTES = 64 << 10


def read_file(file: Path, fields: Mapping[str, FieldInfo], problems: list[str]) -> dict[str, Any]:
    """A file's settings by name, lists of text as in a variable: joined by commas.

    Args:
        file: of TOML.
        fields: the settings there are.
        problems: gets a line for all that is wrong, but for values that do not fit their setting.
    """
    values = {}
    for name, value in parse_toml(file, problems).items():
        field = fields.get(name)
        if field is None:
            hint = nearest(name, fields) or "no setting has this name"
            problems.append(f"{name[:80]} in {file}: {hint.strip()}")
        elif isinstance(value, bool) and field.annotation is not bool:  # else true passes for 1
            problems.append(
                f"{name} in {file} is {str(value).lower()}: input should not be true or false"
            )
        elif get_origin(field.annotation) is tuple and _is_texts(value):
            values[name] = ",".join(value)
        else:
            values[name] = value
    return values


def parse_toml(file: Path, problems: list[str]) -> dict[str, Any]:
    """What a small file of TOML holds; `problems` gets a line where it cannot be had."""
    data = b""
    try:
        with file.open("rb") as source:
            data = source.read(_MAX_BYTES + 1)
        if len(data) <= _MAX_BYTES:
            return tomllib.loads(data.decode("utf-8"))
        problems.append(f"{file} is larger than {_MAX_BYTES >> 10} KiB, no file of settings")
    except OSError as error:
        problems.append(f"{file} cannot be read: {error.strerror or error}")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problems.append(f"{file} is not TOML: expected UTF-8 (at line {line})")
    except tomllib.TOMLDecodeError as error:
        problems.append(f"{file} is not TOML: {error}")
    except RecursionError:
        problems.append(f"{file} is no file of settings: its lists or tables are nested too deep")
    return {}


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(part, str) for part in value)

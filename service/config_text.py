"""Settings as TOML: an example of them all, and those in force."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

from annotated_types import Ge, Gt, Le, Lt
from pydantic import HttpUrl

from service.config import PREFIX, SECRET, Config, Settings
from service.redaction import redact

__all__ = ["example", "in_force"]

_BOUNDS = ((Ge, "ge", "from "), (Gt, "gt", "over "), (Le, "le", "to "), (Lt, "lt", "under "))


def example() -> str:
    """Every setting with its meaning, range and default, commented out."""
    parts = [
        f"# Settings of `resq serve --config FILE` (or {PREFIX}CONFIG). Every line is a default.\n"
        f"# A variable goes before the file: {PREFIX}PERIOD before period.\n"
        "# Times are seconds, sizes bytes unless the name says else.\n"
    ]
    for name, field in Config.model_fields.items():
        text = f"{field.description} {_range(field.metadata)}".strip()
        lines = textwrap.wrap(text, 98, initial_indent="# ", subsequent_indent="# ")
        default = field.get_default(call_default_factory=True)
        lines.append(f"#{name} =" if default is None else f"#{name} = {_toml(default)}")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def in_force(settings: Settings) -> str:
    """What a server would run with, each with where it comes from; secrets are left out."""
    lines = []
    for name in Config.model_fields:
        value, origin = getattr(settings.config, name), settings.origins.get(name, "default")
        if value is None:
            lines.append(f"# {name} is not set")
        elif name in SECRET:
            lines.append(f"# {name} is set, not shown  # {origin}")
        elif (shown := redact(_toml(value))) != _toml(value):
            lines.append(f"# {name} = {shown}, not shown as a whole  # {origin}")
        else:
            lines.append(f"{name} = {shown}  # {origin}")
    return "\n".join(lines) + "\n"


def _range(metadata: list[Any]) -> str:
    words = [
        f"{word}{getattr(bound, attribute):g}"
        for kind, attribute, word in _BOUNDS
        for bound in metadata
        if isinstance(bound, kind)
    ]
    return f"({' '.join(words)})" if words else ""


def _toml(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(part) for part in value) + "]"
    if isinstance(value, (bool, int, float)):
        return json.dumps(value)
    assert isinstance(value, (str, Path, HttpUrl))
    return json.dumps(str(value), ensure_ascii=False)

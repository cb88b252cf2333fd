"""A file of options for a command, under those that its command line has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from resq_core.errors import OptionError
from resq_core.naming import not_known
from service.config_file import parse_toml

__all__ = ["Recipe"]

_OURS = Path(__file__).parent / "recipes"


def _take(context: typer.Context, value: str | None) -> str | None:
    """Let a recipe's values be the defaults of the command's other options.

    Raises OptionError for a file that cannot be read, is no TOML, or names what is no option.
    """
    if value is None:
        return None
    file = Path(value)
    if file.suffix != ".toml":
        known = {path.stem: path for path in sorted(_OURS.glob("*.toml"))}
        if value not in known:
            raise OptionError(f"{not_known('no recipe is', value, known)}, or a file X.toml")
        file = known[value]
    problems: list[str] = []
    found = {key.replace("-", "_"): v for key, v in parse_toml(file, problems).items()}
    if problems:
        raise OptionError("; ".join(problems))
    options = {parameter.name or "" for parameter in context.command.params} - {"recipe", "help"}
    for name in found:
        if name not in options:
            raise OptionError(f"{file}: {not_known('no option is', name, sorted(options))}")
    context.default_map = {**(context.default_map or {}), **found}
    return value


Recipe = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        callback=_take,
        is_eager=True,
        help="Options in a TOML file, or paper; what is given here counts before it.",
    ),
]
"""The option `--recipe`, of a command whose other options it fills."""

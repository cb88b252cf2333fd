"""What the documents take from the code: `<!-- rest -->` becomes the REST interface."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from service.app import ROUTERS
from service.routes.answers import complete

_MARK = "<!-- rest -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by MkDocs for each page."""
    return markdown.replace(_MARK, rest_table()) if _MARK in markdown else markdown


def rest_table() -> str:
    """Every route with its summary, its parameters and its answers."""
    app = FastAPI()
    for router in ROUTERS:
        app.include_router(router)
    parts: list[str] = []
    for path, methods in complete(app.openapi())["paths"].items():
        for method, route in methods.items():
            text = route.get("description") or route["summary"]
            parts += [f"### `{method.upper()} {path}`", "", text, ""]
            parts += _parameters(route.get("parameters", []))
            parts += [_answers(route["responses"]), ""]
    return "\n".join(parts)


def _parameters(parameters: list[dict[str, Any]]) -> list[str]:
    if not parameters:
        return []
    rows = ["| parameter | in | type | default |", "|---|---|---|---|"]
    for parameter in parameters:
        schema = parameter["schema"]
        kinds = [part.get("type", "") for part in schema.get("anyOf", [schema])]
        kind = " or ".join(k for k in kinds if k and k != "null")
        name = parameter["name"] + (" (required)" if parameter.get("required") else "")
        rows.append(f"| `{name}` | {parameter['in']} | {kind} | {schema.get('default', '')} |")
    return [*rows, ""]


def _answers(responses: dict[str, dict[str, Any]]) -> str:
    said = [f"`{status}` {found['description']}" for status, found in responses.items()]
    return "Answers: " + "; ".join(said) + "."

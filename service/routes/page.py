"""The web page."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse

from service.errors import Problem

__all__ = ["router"]

router = APIRouter(include_in_schema=False)

_WEB = Path(__file__).resolve().parents[1] / "web"
_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "media-src blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
}


@router.get("/")
async def page() -> FileResponse:
    """The page itself."""
    return await asset("index.html")


@router.get("/web/{name}")
async def asset(name: str) -> FileResponse:
    """A file of the page; only those that are there, by their plain names."""
    path = next((p for p in _WEB.iterdir() if p.name == name), None)
    if path is None or path.suffix not in _TYPES:
        raise Problem(404, "not_found", f"the page has no file {name[:64]!r}")
    return FileResponse(path, media_type=_TYPES[path.suffix], headers=_HEADERS)

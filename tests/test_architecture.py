"""Who may import whom; see docs/architecture.md."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "resq_core").rglob("*.py")) + sorted((ROOT / "service").rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Full names of everything that a file imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} uses a relative import"
            module = node.module or ""
            found.add(module)
            found.update(f"{module}.{alias.name}" for alias in node.names)
    return found


def uses(path: Path, *packages: str) -> bool:
    return any(n == p or n.startswith(p + ".") for n in imports(path) for p in packages)


def inside(path: Path, *folders: str) -> bool:
    relative = path.relative_to(ROOT).as_posix()
    return any(relative.startswith(folder) for folder in folders)


QUANTIZATION = tuple(
    f"resq_core.{name}"
    for name in ("model", "stream", "runtime", "residual", "quantizer", "ranges", "calibrate")
)
RULES = {
    "resq_core never knows the service": lambda p: inside(p, "resq_core/") and uses(p, "service"),
    "only decoder, its process, encoder and the client's cameras import av": lambda p: (
        uses(p, "av")
        and not inside(
            p,
            "service/decoder.py",
            "service/decoder_child.py",
            "service/encoder.py",
            "service/client/cameras.py",
        )
    ),
    "the server knows nothing of its clients": lambda p: (
        uses(p, "service.client")
        and not inside(p, "service/client/", "service/commands/", "service/cli.py")
    ),
    "the client knows the protocol, not the server": lambda p: (
        inside(p, "service/client/")
        and uses(
            p,
            *(
                f"service.{name}"
                for name in ("active_stream", "app", "engine", "local_engine", "routes", "session")
            ),
        )
    ),
    "only app, routes, security and requests import FastAPI": lambda p: (
        uses(p, "fastapi", "starlette")
        and not inside(
            p,
            "service/app.py",
            "service/routes/",
            "service/security.py",
            "service/requests.py",
        )
    ),
    "only the job store imports SQLAlchemy": lambda p: (
        uses(p, "sqlalchemy") and not inside(p, "service/job_store.py")
    ),
    "only the cluster imports Ray, and only the commands that ask for it the cluster": lambda p: (
        (uses(p, "ray") and not inside(p, "service/cluster/"))
        or (uses(p, "service.cluster") and not inside(p, "service/cluster/", "service/commands/"))
    ),
    "only traces import OpenTelemetry": lambda p: (
        uses(p, "opentelemetry") and not inside(p, "service/traces.py")
    ),
    "models, tasks and evaluation know nothing of quantization": lambda p: (
        inside(p, "resq_core/models/", "resq_core/tasks/", "resq_core/evaluation/")
        and uses(p, *QUANTIZATION)
    ),
    "only backends load the native extension": lambda p: (
        uses(p, "resq_core.backends._native") and not inside(p, "resq_core/backends/")
    ),
    "backends run networks and know nothing of where they come from": lambda p: (
        inside(p, "resq_core/backends/")
        and uses(
            p,
            *(
                f"resq_core.{name}"
                for name in ("calibrate", "hub", "model", "models", "pipelines", "tasks", "zoo")
            ),
        )
    ),
    "only the hub speaks HTTP, and only commands use it": lambda p: (
        (uses(p, "resq_core.hub") and not inside(p, "resq_core/hub/", "service/commands/"))
        or (
            uses(p, "http.client", "urllib.request")
            and inside(p, "resq_core/") != inside(p, "resq_core/hub/")
        )
    ),
    "nothing at run time needs the procedural world": lambda p: (
        uses(p, "resq_core.world") and not inside(p, "resq_core/world/", "service/commands/")
    ),
    "only commands know the command line": lambda p: (
        uses(p, "typer", "rich") and not inside(p, "service/commands/", "service/cli.py")
    ),
}


@pytest.mark.parametrize("rule", RULES)
def test_arrows_point_one_way(rule: str) -> None:
    assert FILES
    broken = [str(p.relative_to(ROOT)) for p in FILES if RULES[rule](p)]
    assert not broken, f"{rule}: {broken}"


def test_there_are_no_import_cycles() -> None:
    names = {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in FILES}
    names = {n.removesuffix(".__init__"): p for n, p in names.items()}
    edges = {n: imports(p) & set(names) - {n} for n, p in names.items()}
    # a package that re-exports its own files is named by importing one of them
    for name, path in names.items():
        if path.name == "__init__.py":
            edges[name] = {e for e in edges[name] if e.startswith(name + ".")}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name in done:
            return
        for target in sorted(edges[name]):
            if not name.startswith(target + "."):  # its own package
                visit(target, (*trail, name))
        done.add(name)

    for name in names:
        visit(name, ())

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from resq_core.backends.extension import ISAS, native_status
from resq_core.errors import OptionError

extension = import_module("resq_core.backends.extension")  # the package's name is the function

ROOT = Path(__file__).resolve().parents[3]
NAME = "resq_core.backends._native"


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("RESQ_ISA", raising=False)
    extension._load.cache_clear()
    yield
    extension._load.cache_clear()


def extension_that_runs(monkeypatch: pytest.MonkeyPatch, *isas: str) -> None:
    fake = ModuleType(NAME)
    fake.isas = lambda: list(isas)  # type: ignore[attr-defined]
    fake.cpu_features = lambda: ["avx2"]  # type: ignore[attr-defined]
    monkeypatch.setattr(extension, "_load", lambda: (fake, None))
    monkeypatch.setattr(extension._load, "cache_clear", lambda: None, raising=False)


@pytest.fixture
def native() -> ModuleType:
    return pytest.importorskip(NAME, reason="the native extension is not built")


def test_the_best_runnable_kernels_are_taken(native: ModuleType) -> None:
    status = native_status()
    runnable = native.isas()
    assert status.reason is None
    assert status.isa == runnable[0]
    assert runnable == [isa for isa in ISAS if isa in runnable]
    assert runnable[-1] == "portable"


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="needs Linux on x86-64"
)
def test_features_are_those_that_the_kernel_reports(native: ModuleType) -> None:
    line = next(
        text for text in Path("/proc/cpuinfo").read_text().splitlines() if text.startswith("flags")
    )
    flags = {flag.replace("avx512_vnni", "avx512vnni") for flag in line.split()}
    names = ("avx", "f16c", "fma", "avx2", "avx512f", "avx512dq", "avx512bw", "avx512vl")
    assert set(native.cpu_features()) == flags & {*names, "avx512vnni", "amx_tile", "amx_int8"}
    assert ("avx2" in native.isas()) == {"avx2", "fma", "f16c"}.issubset(flags)


def test_a_lower_isa_can_be_forced(native: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    for isa in native.isas():
        monkeypatch.setenv("RESQ_ISA", isa)
        assert native_status().isa == isa


def test_an_unknown_isa_is_an_error_with_and_without_extension(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RESQ_ISA", "sse9")
    with pytest.raises(OptionError, match=r"RESQ_ISA is 'sse9'; expected one of \['amx'"):
        native_status()
    monkeypatch.setitem(sys.modules, NAME, None)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="sse9"):
        native_status()


def test_an_isa_that_cannot_run_here_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    extension_that_runs(monkeypatch, "avx2", "portable")
    monkeypatch.setenv("RESQ_ISA", "avx512")
    with pytest.raises(OptionError, match=r"cannot run; expected one of \['avx2', 'portable'\]"):
        native_status()


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    extension_that_runs(monkeypatch, "avx2", "portable")
    monkeypatch.setenv("RESQ_ISA", "")
    assert native_status().isa == "avx2"


def test_a_missing_extension_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, NAME, None)  # type: ignore[arg-type]
    status = native_status()
    assert (status.isa, status.features) == (None, ())
    assert status.reason is not None
    assert "not built" in status.reason


def test_an_extension_of_another_system_says_what_the_loader_said(tmp_path: Path) -> None:
    """In a process of its own, whose package holds a file that is no extension."""
    suffix = "import sysconfig; print(sysconfig.get_config_var('EXT_SUFFIX'))"
    name = "_native" + subprocess.check_output([sys.executable, "-c", suffix], text=True).strip()
    (tmp_path / name).write_bytes(b"not a library")
    code = (
        "import resq_core.backends as b; "
        f"b.__path__[:] = [{str(tmp_path)!r}, *b.__path__]; "
        "from resq_core.backends.extension import native_status; print(native_status().reason)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.startswith("it cannot be loaded: "), done.stdout + done.stderr
    assert name in done.stdout


def objects(pattern: str) -> list[Path]:
    found = sorted(ROOT.glob(f"build/editable-*/CMakeFiles/_native.dir/**/{pattern}"))
    if not found or shutil.which("nm") is None:
        pytest.skip("needs an editable build and nm")
    return found


@pytest.mark.parametrize("isa", ["amx", "avx512", "avx2"])
def test_no_shared_inline_function_is_compiled_for_a_wider_processor(isa: str) -> None:
    """The linker keeps one copy of a weak function, which then runs on every processor."""
    nm: Callable[[Path], str] = lambda path: subprocess.check_output(  # noqa: E731
        ["nm", "--demangle", "--defined-only", path], text=True
    )
    for path in objects(f"kernels_{isa}.cpp.o"):
        symbols = [line.split(" ", 2)[1:] for line in nm(path).splitlines()]
        leaked = [
            name
            for kind, name in symbols
            if kind in "WVu" and not name.removeprefix("typeinfo for ").startswith(f"resq::{isa}::")
        ]
        assert not leaked, f"{path.name} shares {leaked} with other files"

"""`resq stream` and `resq clips` against a real server, and what every command has in common."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from service.cli import app, main
from service.client import Client
from service.decoder import open_clip
from service.keys import Scope, add_key
from tests.service.cameras import has_rtsp_server, rtsp_server
from tests.service.conftest import SlowEngine
from tests.service.test_clips import clip_bytes

ROOT = Path(__file__).resolve().parents[2]
Serve = Callable[..., str]
Resq = Callable[..., tuple[int, str, str]]


@pytest.fixture
def resq(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Resq:
    """Runs the command in this process: its exit status, standard output and errors."""
    monkeypatch.delenv("RESQ_KEY", raising=False)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["resq", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert isinstance(ended.value.code, int | None)
        return ended.value.code or 0, *capsys.readouterr()

    return run


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "street.mp4"
    path.write_bytes(clip_bytes(9))
    return path


def test_stream_writes_what_comes_back(
    serve: Serve, resq: Resq, clip: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    code, text, errors = resq(
        "stream", clip, "--url", serve(), "--period", 4, "--out", out, "--json"
    )
    assert code == 0, errors
    told = json.loads(text)
    assert (told["results"], told["drops"], told["anchors"]) == (9, 0, 3)
    assert (told["model"], told["period"], told["mode"]) == ("tiny", 4, "lossless")
    lines = [json.loads(line) for line in (out / "results.ndjson").read_text().splitlines()]
    assert [line["index"] for line in lines] == list(range(9))
    spent = sum(line["bops"]["frame"] + line["bops"]["policy"] for line in lines)
    baseline = sum(line["bops"]["w8a8"] for line in lines)
    assert told["bop_saving"] == pytest.approx(1 - spent / baseline, abs=1e-4)
    assert told["latency_ms"]["median"] <= told["latency_ms"]["p95"]
    with open_clip(out / "annotated.mp4") as video:
        assert len(list(video)) == 9


def test_stream_shows_figures_to_people(serve: Serve, resq: Resq, clip: Path) -> None:
    code, text, _ = resq("stream", clip, "--url", serve(), "--max-frames", 5)
    assert code == 0
    for word in ("street.mp4: tiny", "fps", "BOPs saved", "latency", "dropped", "5/5", "none"):
        assert word in text


def test_drops_are_written_and_named(
    serve: Serve, resq: Resq, engine: SlowEngine, clip: Path, tmp_path: Path
) -> None:
    engine.seconds = 0.1
    address, out = serve(), tmp_path / "out"
    code, text, _ = resq("stream", clip, "--url", address, "--live", "--out", out, "--json")
    told = json.loads(text)
    assert code == 0
    assert told["results"] + told["drops"] == 9
    reasons = told["drop_reasons"]
    lines = [json.loads(line) for line in (out / "results.ndjson").read_text().splitlines()]
    drops = [line["reason"] for line in lines if line.get("type") == "drop"]
    assert len(drops) == told["drops"] - reasons.get("skipped", 0) - reasons.get("unread", 0)


@pytest.mark.skipif(
    not has_rtsp_server(),
    reason="needs Debian's gir1.2-gst-rtsp-server-1.0, gstreamer1.0-plugins-good and python3-gi",
)
def test_an_interrupt_ends_a_camera_in_order(serve: Serve, tmp_path: Path) -> None:
    address, out = serve(), tmp_path / "out"
    with rtsp_server(tmp_path) as port:
        source = f"rtsp://127.0.0.1:{port}/live"
        command = [sys.executable, "-m", "service.cli", "stream", source, "--url", address]
        process = subprocess.Popen(
            [*command, "--out", str(out), "--json"],
            stdout=subprocess.PIPE,
            cwd=ROOT,
            text=True,
            # a shell's background jobs ignore it, and so would whatever they start
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        deadline = time.monotonic() + 60
        lines = out / "results.ndjson"
        while not lines.is_file() or lines.read_text().count("\n") < 3:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        text, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    told = json.loads(text)
    assert (told["source"], told["mode"]) == ("the camera", "live")
    assert told["results"] >= 3
    with open_clip(out / "annotated.mp4") as video:
        assert len(list(video)) == told["results"]


def test_clips_from_upload_to_delete(serve: Serve, resq: Resq, clip: Path, tmp_path: Path) -> None:
    url = ("--url", serve())
    assert "no clips" in resq("clips", "list", *url)[1]
    code, text, errors = resq("clips", "upload", clip, *url, "--follow", "--period", 4)
    assert code == 0, errors
    name, line = text.splitlines()
    assert "9 frames, 3 keyframes" in line
    assert "9/9" in errors
    listed = json.loads(resq("clips", "list", *url, "--json")[1])
    assert [(c["id"], c["state"]) for c in listed] == [(name, "done")]
    assert name in resq("clips", "list", *url)[1]
    assert json.loads(resq("clips", "show", name, *url, "--json")[1]) == listed[0]
    assert "done" in resq("clips", "show", name, *url)[1]
    lines = resq("clips", "results", name, *url, "--follow", "--json")[1].splitlines()
    assert [json.loads(line)["index"] for line in lines] == list(range(9))
    assert resq("clips", "results", name, *url)[1].count("keyframe") == 3
    out = tmp_path / "a.mp4"
    told = json.loads(resq("clips", "download", name, *url, "--out", out, "--json")[1])
    assert told == {"id": name, "path": str(out), "bytes": out.stat().st_size}
    assert resq("clips", "delete", name, *url)[1] == f"deleted {name}\n"
    code, _, errors = resq("clips", "delete", name, *url)
    assert (code, errors) == (2, f"error: no clip has the id '{name}'\n")


def test_a_clip_that_fails_is_exit_code_1(serve: Serve, resq: Resq, tmp_path: Path) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no video" * 100)
    code, _, errors = resq("clips", "upload", bad, "--url", serve(), "--follow")
    assert code == 1
    assert "is failed: bad.mp4 cannot be read" in errors or "cannot be read" in errors


def test_what_to_do_where_no_server_is(resq: Resq, clip: Path) -> None:
    nobody = ("--url", "http://127.0.0.1:9")
    for arguments in (("stream", clip), ("clips", "list"), ("clips", "upload", clip)):
        code, text, errors = resq(*arguments, *nobody)
        assert (code, text) == (2, "")
        assert "error: no server answers at http://127.0.0.1:9" in errors
        assert "`resq serve` starts one" in errors


def test_what_to_do_without_a_key(
    serve: Serve, resq: Resq, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, token = add_key(tmp_path / "data", "me", (Scope.STREAM, Scope.CLIPS))
    url = ("--url", serve())
    for arguments in (("stream", clip), ("clips", "list")):
        code, _, errors = resq(*arguments, *url)
        assert code == 2
        assert "needs an API key; expected one in RESQ_KEY, --key or key=" in errors
        assert resq(*arguments, *url, "--key", token)[0] == 0
        monkeypatch.setenv("RESQ_KEY", token)
        code, text, errors = resq(*arguments, *url)
        assert code == 0
        assert token not in text + errors
        monkeypatch.delenv("RESQ_KEY")


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("strem", "x"), "Did you mean 'stream'?"),
        (("clips", "lst"), "Did you mean 'list'?"),
        (("run", "x", "--out", "o", "--perod", "3"), "--period"),
        (("run", "CLIP", "--out", "o", "--model", "stret"), "did you mean street?"),
        (
            ("run", "CLIP", "--out", "o", "--precision", "W8A8->W8A{0,4,7}"),
            "did you mean W8A8->W8A{0,4,8}?",
        ),
        (("run", "CLIP", "--out", "o", "--precision", "W8A8-"), "quote it, or the shell takes >"),
        (("models", "info", "stn"), "did you mean stm?"),
        (("tune", "--clip", "CLIP", "--max-drop", "1", "--model", "stret"), "did you mean street?"),
        (("stream", "CLIP", "--encoding", "jpg"), "expected jpeg, png or rgb"),
    ],
)
def test_mistakes_say_what_to_type_instead(
    resq: Resq, clip: Path, arguments: tuple[str, ...], hint: str
) -> None:
    code, _, errors = resq(*(str(clip) if a == "CLIP" else a for a in arguments))
    assert code == 2
    assert hint in " ".join(errors.split())
    assert "Traceback" not in errors


def test_a_server_names_the_nearest_model(serve: Serve, resq: Resq, clip: Path) -> None:
    code, _, errors = resq("stream", clip, "--url", serve(), "--model", "tini")
    assert code == 2
    assert "no model is called 'tini'; did you mean tiny? there are: tiny" in errors


def commands() -> Iterator[tuple[str, typer.core.TyperCommand]]:
    root = typer.main.get_command(app)
    assert isinstance(root, typer.core.TyperGroup)
    for name, command in root.commands.items():
        if isinstance(command, typer.core.TyperGroup):
            yield from ((f"{name} {n}", c) for n, c in command.commands.items())  # type: ignore[misc]
        else:
            yield name, command  # type: ignore[misc]


def test_every_command_has_json_and_says_what_it_does() -> None:
    found = dict(commands())
    assert {"stream", "bench", "clips upload", "keys add", "models pull"} <= set(found)
    for name, command in found.items():
        assert any("--json" in p.opts for p in command.params), f"{name} has no --json"
        assert command.help, name
        for parameter in command.params:
            if isinstance(parameter, typer.core.TyperOption):
                assert parameter.help, f"{name} {parameter.name}"


def test_version_and_exit_codes(resq: Resq) -> None:
    code, text, _ = resq("--version")
    assert code == 0
    assert text.startswith("resq ")
    assert text.count("\n") == 1
    assert "Exit codes: 0 done; 1" in " ".join(resq("--help")[1].split())


@pytest.mark.slow
def test_bench_times_all_on_the_same_frames(clip: Path, tmp_path: Path) -> None:
    long = tmp_path / "long.mp4"
    long.write_bytes(clip_bytes(16))
    done = CliRunner().invoke(app, ["bench", "--clip", str(long), "--frames", "16", "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    (row,) = told["clips"]
    assert (row["clip"], row["frames"], row["period"]) == ("long.mp4", 16, 8)
    assert set(row["milliseconds"]) == {"float", "keyframe", "residual", "resq"}
    assert all(ms > 0 for ms in row["milliseconds"].values())
    assert 0 < row["active_fraction"] <= 1
    short = CliRunner().invoke(app, ["bench", "--clip", str(clip), "--frames", "16"])
    assert "street.mp4 has 9 frames; expected 16 or more" in str(short.exception)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_commands_options_and_models(tmp_path: Path) -> None:
    program = tmp_path / "resq"
    program.write_text(f"#!{sys.executable}\nfrom service.cli import main\nmain()\n")
    program.chmod(0o755)
    script = """
        eval "$(_RESQ_COMPLETE=source_bash resq)"
        complete -p resq
        complete_words() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _resq_completion resq; }
        complete_words resq str; echo "command: ${COMPREPLY[*]}"
        complete_words resq clips up; echo "sub: ${COMPREPLY[*]}"
        complete_words resq stream --per; echo "option: ${COMPREPLY[*]}"
        complete_words resq run --model st; echo "model: ${COMPREPLY[*]}"
    """
    environment = os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, timeout=120, env=environment
    )
    lines = done.stdout.splitlines()
    assert "_resq_completion" in lines[0], done.stderr
    assert lines[1:] == [
        "command: stream",
        "sub: upload",
        "option: --period",
        "model: street",
    ]


def test_the_client_of_the_command_is_the_library(serve: Serve, clip: Path, resq: Resq) -> None:
    """The same clip through both gives the same bit operations."""
    address = serve()
    told = json.loads(resq("stream", clip, "--url", address, "--json")[1])
    with Client(address) as client:
        results = list(client.stream(clip))
    spent = sum(r.meta.bops.frame + r.meta.bops.policy for r in results)
    baseline = sum(r.meta.bops.w8a8 for r in results)
    assert told["bop_saving"] == pytest.approx(1 - spent / baseline, abs=1e-4)

"""Sources of video on real sockets: good ones, hung ones, lying ones."""

from __future__ import annotations

import contextlib
import io
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import av

from service.encoder import VideoWriter
from tests.service.conftest import colour

PROGRAM = Path(__file__).parent / "programs" / "rtsp_server.py"
SYSTEM_PYTHON = "/usr/bin/python3"
CODECS = {"mpegts": "libx264", "mp4": "libx264", "webm": "libvpx", "mpjpeg": "mjpeg"}
TYPES = {"mpjpeg": "multipart/x-mixed-replace;boundary=ffmpeg"}
Answer = Callable[[BaseHTTPRequestHandler], None]


def video(form: str, count: int = 10, start: int = 0) -> bytes:
    """A video at 25 frames per second, its times from frame number `start` on."""
    out = io.BytesIO()
    mux(out, form, range(start, start + count))
    return out.getvalue()


def mux(out: Any, form: str, numbers: Iterator[int] | range) -> None:
    """Write frames to something with `write`, each as it comes."""
    options = {"movflags": "frag_every_frame+empty_moov"} if form == "mp4" else {}
    target = type("Out", (), {"write": staticmethod(out.write)})()
    with av.open(target, "w", format=form, options={**options, "flush_packets": "1"}) as container:
        stream = container.add_stream(CODECS[form], rate=25)
        stream.width, stream.height = 64, 48
        stream.pix_fmt = "yuvj420p" if form == "mpjpeg" else "yuv420p"
        stream.gop_size, stream.time_base = 5, Fraction(1, 25)
        if CODECS[form] == "libx264":
            stream.options = {"tune": "zerolatency", "x264-params": "repeat-headers=1"}
        for number in numbers:
            frame = av.VideoFrame.from_ndarray(colour(number), format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


class Camera:
    """An HTTP server on a loopback address; `answers` says what each path does."""

    def __init__(self, port: int = 0, address: str = "127.0.0.1") -> None:
        self.answers: dict[str, Answer] = {}
        self.seen: list[dict[str, str]] = []
        self.stopped = threading.Event()
        camera = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                camera.seen.append({k.lower(): v for k, v in self.headers.items()})
                with contextlib.suppress(OSError):
                    camera.answers[self.path.partition("?")[0]](self)

            def do_POST(self) -> None:
                self.do_GET()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer((address, port), Handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self.address = f"{address}:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def __enter__(self) -> Camera:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Close the port and every connection."""
        self.stopped.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def live(self, handler: BaseHTTPRequestHandler) -> None:
        """MPEG-TS in real time until the camera is stopped."""
        handler.send_response(200)
        handler.end_headers()

        def numbers() -> Iterator[int]:
            number = 0
            while not self.stopped.wait(0.04):
                yield number
                number += 1

        mux(handler.wfile, "mpegts", numbers())

    def hang(self, handler: BaseHTTPRequestHandler) -> None:
        """Say nothing."""
        self.stopped.wait()

    def half(self, handler: BaseHTTPRequestHandler) -> None:
        """Some of a video, then nothing."""
        handler.send_response(200)
        handler.send_header("content-length", "1000000")
        handler.end_headers()
        handler.wfile.write(video("mpegts", 4))
        self.stopped.wait()


def file(data: bytes, kind: str = "video/mp2t") -> Answer:
    """A body of known length."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("content-type", kind)
        handler.send_header("content-length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def redirect(location: str, status: int = 302) -> Answer:
    """To somewhere else."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("location", location)
        handler.send_header("content-length", "0")
        handler.end_headers()

    return answer


class Listener:
    """A TCP server that counts connections and plays a script to each."""

    def __init__(self, script: Callable[[socket.socket], None], address: str = "127.0.0.1") -> None:
        self._script = script
        self._server = socket.create_server((address, 0))
        self.port: int = self._server.getsockname()[1]
        self.address = f"{address}:{self.port}"
        self.connections = 0
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            threading.Thread(target=self._play, args=(connection,), daemon=True).start()

    def _play(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            self._script(connection)

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for connection in self._open:
            connection.close()
        self._thread.join()


def has_rtsp_server() -> bool:
    """GStreamer's, with what the program needs of it."""
    code = (
        "import gi; gi.require_version('Gst', '1.0'); gi.require_version('GstRtspServer', '1.0');"
        "from gi.repository import Gst, GstRtspServer; Gst.init(None);"
        "assert all(map(Gst.ElementFactory.find, ('rtph264pay', 'qtdemux')))"
    )
    try:
        return subprocess.run([SYSTEM_PYTHON, "-c", code], capture_output=True).returncode == 0
    except OSError:
        return False


@contextlib.contextmanager
def rtsp_server(
    folder: Path, seconds: float = 60.0, port: int = 0, access: str = "open"
) -> Iterator[int]:
    """A real RTSP server with a file of that length under /live; gives its port."""
    path = folder / f"{seconds:g}.mp4"
    if not path.exists():
        with VideoWriter(path, 10, (48, 64)) as writer:
            for i in range(round(10 * seconds)):
                writer.write(colour(i))
    command = [SYSTEM_PYTHON, str(PROGRAM), str(path), str(port), access]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.kill()

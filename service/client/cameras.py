"""Webcams, through FFmpeg's devices, and RTSP cameras that this machine can reach itself."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import av

from service.decoder import ClipError, ClipFrame, ClipLimits, LiveClip, read_camera

__all__ = ["open_device", "open_rtsp", "open_webcam", "until_lost"]

_SECONDS = 10.0  # without a picture
_DEVICES = {  # FFmpeg's format, what a number stands for, and options
    "linux": ("v4l2", "/dev/video{}", {}),
    "darwin": ("avfoundation", "{}", {"framerate": "30"}),  # its own default fits few cameras
    "win32": ("dshow", "video={}", {}),
}


def open_webcam(which: str) -> LiveClip:
    """The pictures of a webcam.

    Args:
        which: its number from 0, or its name or path as the system has it.

    Raises:
        ClipError: there is no such webcam, or it cannot be used.
    """
    if sys.platform not in _DEVICES:
        raise ClipError(f"no webcam is known on {sys.platform}; expected Linux, macOS or Windows")
    form, pattern, options = _DEVICES[sys.platform]
    names = _names(form)
    device = which
    if which.isdecimal():
        named = form == "dshow" and int(which) < len(names)  # knows no numbers
        device = pattern.format(names[int(which)] if named else int(which))
    elif form == "dshow":
        device = pattern.format(which)
    try:
        return open_device(form, device, options)
    except av.FFmpegError as error:
        found = ", ".join(names) or "none"
        raise ClipError(
            f"webcam {which} ({device}) cannot be opened: {error.strerror}; webcams here: {found}"
        ) from error


def open_device(form: str, device: str, options: dict[str, str]) -> LiveClip:
    """The pictures of one of FFmpeg's input devices. Raises av.FFmpegError."""
    container = av.open(device, "r", format=form, options=options, timeout=(_SECONDS, _SECONDS))
    try:
        return LiveClip(None, container, container.streams.video[0], ClipLimits())
    except BaseException:
        container.close()
        raise


def open_rtsp(url: str) -> LiveClip:
    """The pictures of a camera, over TCP, for as long as there is one every ten seconds.

    Raises:
        ClipError: nothing answers, it refuses, or sends no video.
    """
    return read_camera(url, ClipLimits(), _SECONDS)


def until_lost(clip: LiveClip, name: str) -> Iterator[ClipFrame]:
    """The pictures of a camera, which has no end.

    Raises:
        ClipError: it gives no more.
    """
    yield from clip
    raise ClipError(f"{name} gives no more pictures; expected it to stay connected")


def _names(form: str) -> list[str]:
    try:
        return [device.name for device in av.enumerate_input_devices(form)]
    except (ValueError, av.FFmpegError):
        return []

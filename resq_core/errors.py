"""The exception tree of ResQ.

ResqError
├── PrecisionError      a precision that does not parse or makes no sense      (also ValueError)
├── OptionError         a period, threshold, reference or policy out of range  (also ValueError)
├── InputError          a frame of a wrong shape, size, type or with NaN       (also ValueError)
├── UnknownModelError   a model name that is not registered                    (also LookupError)
├── BackendError        a backend that was asked for by name and cannot be used here
├── CaptureError        a module that cannot be turned into a graph
├── CalibrationError    scales that are missing, or samples that cannot give any
├── CheckpointError     weights that do not fit, or hold NaN or infinity
├── DownloadError       a file that could not be fetched whole, or is not the expected one
├── LicenceError        weights whose licence has to be accepted first
├── SavedModelError     a saved model of another format or version, or a damaged one
└── StreamClosedError   a step on a stream that was closed

Every message says what was wrong, what was expected, and where.
"""

from __future__ import annotations

__all__ = [
    "BackendError",
    "CalibrationError",
    "CaptureError",
    "CheckpointError",
    "DownloadError",
    "InputError",
    "LicenceError",
    "OptionError",
    "PrecisionError",
    "ResqError",
    "SavedModelError",
    "StreamClosedError",
    "UnknownModelError",
]


class ResqError(Exception):
    """Base of every error that ResQ raises on purpose."""


class PrecisionError(ResqError, ValueError):
    """A precision that does not parse, or bits outside 0 to 8."""


class OptionError(ResqError, ValueError):
    """A period, threshold, reference, policy or builder option out of range."""


class InputError(ResqError, ValueError):
    """A frame of a wrong shape, size or dtype, or one that holds NaN or infinity."""


class UnknownModelError(ResqError, LookupError):
    """A model name that is not registered."""


class BackendError(ResqError):
    """A backend that was asked for by name and cannot be used on this machine or network."""


class CaptureError(ResqError):
    """A module that cannot be captured; the message names the module and the reason."""


class CalibrationError(ResqError):
    """Scales that are missing, or calibration samples that cannot give any."""


class CheckpointError(ResqError):
    """Weights that cannot be read, do not fit the network, or hold NaN or infinity."""


class DownloadError(ResqError):
    """A file that could not be fetched whole, or that is not the expected one."""


class LicenceError(ResqError):
    """Weights whose licence has to be accepted first."""


class SavedModelError(ResqError):
    """A saved model of another format or version, or a damaged file."""


class StreamClosedError(ResqError):
    """A step on a stream that was closed."""

"""Frames that your own program makes: python examples/arrays.py [URL]"""

import sys

import numpy as np

from service.client import Client


def frames():
    """A bright square that crosses a grey picture, uint8 [H, W, 3] RGB."""
    for left in range(0, 200, 10):
        picture = np.full((240, 320, 3), 90, np.uint8)
        picture[100:140, left : left + 40] = 250
        yield picture


with Client(*sys.argv[1:2]) as client:
    for r in client.stream(frames(), encoding="rgb"):
        names = [r.started.classes[i] for i in np.unique(r.mask)]
        print(r.index, r.mask.shape, f"{r.saving:.1%}", *names)

"""A camera, frame by frame: python examples/camera.py [webcam:0 | rtsp://… | CLIP.mp4] [URL]"""

import sys

from service.client import Client

source = sys.argv[1] if len(sys.argv) > 1 else "webcam:0"
with Client(*sys.argv[2:3]) as client:
    stream = client.stream(source)
    for r in stream:
        kind = "keyframe" if r.is_anchor else "residual"
        print(f"{r.index:5d} {kind} {r.saving:5.1%} of bit operations saved, {r.latency_ms:.0f} ms")
    print(f"dropped: {dict(stream.drops)}")

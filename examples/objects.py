"""Objects followed from their first masks: python examples/objects.py CLIP.mp4 MASK.png MODEL [URL]

MASK.png is a palette PNG of the first frame, whose indices are the objects' ids; 0 is background.
"""

import sys

from service.client import Client

clip, masks, model = sys.argv[1:4]
with Client(*sys.argv[4:5]) as client:
    for r in client.stream(clip, model=model, masks=masks):
        found = r.instances()
        for number, box in zip(found.tracker_id, found.xyxy, strict=True):
            print(f"frame {r.index}: object {number} in {box.round().astype(int).tolist()}")

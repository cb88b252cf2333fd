"""Masks drawn by supervision: python examples/detections.py CLIP.mp4 FOLDER [URL]"""

import sys
from pathlib import Path

import supervision as sv
from PIL import Image

from service.client import Client

paint, folder = sv.MaskAnnotator(), Path(sys.argv[2])
folder.mkdir(parents=True, exist_ok=True)
with Client(*sys.argv[3:4]) as client:
    for r in client.stream(sys.argv[1]):
        found = r.detections()
        print(r.index, *found["class_name"])
        Image.fromarray(paint.annotate(r.frame.copy(), found)).save(folder / f"{r.index:06d}.png")

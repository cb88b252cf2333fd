"""A clip as a job of the server: python examples/clip.py CLIP.mp4 ANNOTATED.mp4 [URL]"""

import sys

from service.client import Client

with Client(*sys.argv[3:4]) as client:
    job = client.clips.upload(sys.argv[1], period=8)
    for r in job.results():
        print(r.index, "dropped" if r.drop else f"{r.saving:.1%} saved")
    print(job.report()["bop_saving"], "->", job.download(sys.argv[2]))
    job.cancel()  # removes it from the server

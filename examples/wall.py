"""Many cameras at once: python examples/wall.py URL SOURCE..."""

import asyncio
import sys

from service.client import AsyncClient


async def watch(client, source):
    """Print what one camera shows; a connection that breaks is taken up again."""
    stream = client.stream(source, live=True, mask=False)
    async for r in stream:
        print(f"{source} {r.index}: {r.saving:.1%} saved, {r.latency_ms:.0f} ms")
    print(f"{source}: dropped {dict(stream.drops)}")


async def main(url, *sources):
    """One connection for each camera, one task for each connection."""
    async with AsyncClient(url) as client:
        await asyncio.gather(*(watch(client, source) for source in sources))


asyncio.run(main(*sys.argv[1:]))

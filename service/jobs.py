"""Uploaded clips: a bounded queue of jobs, worked off one after another below live streams."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import secrets
import shutil
import time
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from service.clip_work import ClipWork
from service.config import Config
from service.decoder import ClipError, ClipLimits
from service.decoder_process import DecoderPool
from service.engine import Engine, EngineError, StreamSpec
from service.metrics import Metrics
from service.pictures import Limits
from service.scheduler import Priority, Scheduler

__all__ = ["Job", "JobState", "Jobs", "JobsFullError"]

_log = logging.getLogger("resq.jobs")
_ID = re.compile(r"[0-9a-f]{16}")


class JobState(StrEnum):
    """Where a job stands."""

    UPLOADING = "uploading"
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


_PENDING = (JobState.UPLOADING, JobState.QUEUED)
_FINISHED = (JobState.DONE, JobState.FAILED, JobState.CANCELLED)


class JobsFullError(Exception):
    """As many clips wait as may."""


@dataclass(eq=False)
class Job:
    """One clip. `changed` is replaced each time it is set: wait on the one you looked at."""

    id: str
    spec: StreamSpec
    folder: Path
    created: float = field(default_factory=time.time)
    state: JobState = JobState.UPLOADING
    error: str | None = None
    results: int = 0
    expected: int = 0
    cancelled: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def finished(self) -> bool:
        """Nothing will change any more."""
        return self.state in _FINISHED

    @property
    def upload(self) -> Path:
        """Where the clip is written to."""
        return self.folder / "clip"

    def describe(self) -> dict[str, Any]:
        """Facts for people and programs; `progress` is 0 to 1, or null where it is not known."""
        progress = min(self.results / self.expected, 1.0) if self.expected else None
        return {
            "id": self.id,
            "state": self.state,
            "error": self.error,
            "created": self.created,
            "model": self.spec.model,
            "results": self.results,
            "progress": 1.0 if self.state is JobState.DONE else progress,
        }

    def notify(self) -> None:
        """Wake who waits for news."""
        self.changed.set()
        self.changed = asyncio.Event()


class Jobs:
    """The table of jobs. The event loop owns it."""

    def __init__(
        self,
        config: Config,
        engine: Engine,
        scheduler: Scheduler,
        metrics: Metrics,
        decoders: DecoderPool,
    ) -> None:
        self._config, self._engine, self._metrics = config, engine, metrics
        self._decoders = decoders
        self._folder = config.data_dir.resolve() / "clips"
        self._lane = scheduler.lane(Priority.CLIP)
        self._jobs: dict[str, Job] = {}
        self._wake = asyncio.Event()
        self._runner: asyncio.Task[None] | None = None
        self._limits = ClipLimits(
            max_bytes=config.max_clip_bytes,
            max_seconds=config.max_clip_seconds,
            max_frames=config.max_clip_frames,
            frame=Limits(max_pixels=config.max_pixels),
        )

    def start(self) -> None:
        """Begin to work; what an earlier server left behind has no job any more and goes."""
        for folder in self._folder.glob("*"):
            if _ID.fullmatch(folder.name) and folder.is_dir():
                shutil.rmtree(folder, ignore_errors=True)
        self._runner = asyncio.create_task(self._work())

    async def close(self) -> None:
        """Stop after the frame at hand."""
        if self._runner is not None:
            self._runner.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._runner

    def all(self) -> list[Job]:
        """Every job, oldest first."""
        return list(self._jobs.values())

    def get(self, name: str) -> Job | None:
        """The job of this id."""
        return self._jobs.get(name)

    def create(self, spec: StreamSpec) -> Job:
        """A job that waits for its upload.

        Raises:
            JobsFullError: too many wait.
            EngineError: there is no such model.
        """
        self._engine.card(spec.model)
        if sum(job.state in _PENDING for job in self._jobs.values()) >= (
            self._config.max_clips_waiting
        ):
            raise JobsFullError(
                f"{self._config.max_clips_waiting} clips wait already; try again later"
            )
        name = secrets.token_hex(8)
        job = Job(name, spec, self._folder / name)
        job.folder.mkdir(parents=True)
        self._jobs[name] = job
        self._count()
        return job

    def submit(self, job: Job) -> None:
        """The upload is complete."""
        self._become(job, JobState.QUEUED)
        self._wake.set()

    async def delete(self, job: Job) -> None:
        """Stop the job if it runs, and remove its files."""
        job.cancelled = True
        while job.state is JobState.RUNNING:
            await job.changed.wait()
        if not job.finished:
            self._become(job, JobState.CANCELLED)
        self._jobs.pop(job.id, None)
        self._count()
        await asyncio.to_thread(shutil.rmtree, job.folder, ignore_errors=True)

    async def _work(self) -> None:
        while True:
            self._wake.clear()
            waiting = [job for job in self._jobs.values() if job.state is JobState.QUEUED]
            if not waiting:
                await self._wake.wait()
                continue
            await self._run(waiting[0])
            await self._forget_oldest()

    async def _run(self, job: Job) -> None:
        self._become(job, JobState.RUNNING)
        try:
            await self._advance(job)
        except (ClipError, EngineError) as error:
            job.error = str(error)
            self._become(job, JobState.FAILED)
        except Exception:
            _log.exception("clip %s failed", job.id)
            job.error = "the server failed on this clip; its log says more"
            self._become(job, JobState.FAILED)
        except asyncio.CancelledError:
            self._become(job, JobState.CANCELLED)
            raise
        else:
            self._become(job, JobState.CANCELLED if job.cancelled else JobState.DONE)
        finally:
            job.upload.unlink(missing_ok=True)

    async def _advance(self, job: Job) -> None:
        # decoding waits outside the lane: a decoder that hangs holds up no stream's inference
        clip = await asyncio.to_thread(self._decoders.open_clip, job.upload, self._limits)
        try:
            work = await self._lane.run(lambda: ClipWork(self._engine, job.spec, clip, job.folder))
        except BaseException:
            clip.close()
            raise
        try:
            job.expected = work.expected
            while not job.cancelled and await asyncio.to_thread(work.fetch):
                await self._lane.run(work.advance)
                job.results = work.results
                job.notify()
            report = work.report()
        finally:
            await self._lane.idle()
            await asyncio.shield(asyncio.to_thread(work.close))
        (job.folder / "report.json").write_text(json.dumps(report), "utf-8")

    async def _forget_oldest(self) -> None:
        finished = [job for job in self._jobs.values() if job.finished]
        for job in finished[: max(0, len(finished) - self._config.max_clips_kept)]:
            await self.delete(job)

    def _become(self, job: Job, state: JobState) -> None:
        job.state = state
        self._count()
        job.notify()

    def _count(self) -> None:
        states = [job.state for job in self._jobs.values()]
        for state in JobState:
            self._metrics.clips.labels(state.value).set(states.count(state))

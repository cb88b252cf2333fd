"""Uploaded clips: a bounded queue of jobs, worked off in turn below live streams, as many at the
same time as the engine takes.

What the store remembers, a server that starts goes on with.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import secrets
import shutil
import time
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from service.clip_work import REPORT, Checkpoint, ClipWork, cut_back, kept_size, results_whole, tidy
from service.config import Config
from service.decoder import ClipError, ClipLimits
from service.decoder_process import DecoderPool
from service.durable import DamagedError, disk_full, put_in_place, write_in_place
from service.engine import Engine, EngineError, Priority, StreamSpec, WorkerLost
from service.job_store import JobStore, Record, StoreError
from service.logs import noted
from service.metrics import Metrics
from service.pictures import Limits
from service.scheduler import Scheduler

__all__ = ["Job", "JobState", "Jobs", "JobsFullError"]

_log = logging.getLogger("resq.jobs")
_ID = re.compile(r"[0-9a-f]{16}")
_SPEC, _CHECKPOINT = TypeAdapter(StreamSpec), TypeAdapter(Checkpoint)
_MAX_INTERRUPTIONS = 3
_RETRY_SECONDS = 2.0  # for what the store or the disk refused
_RELAY_SECONDS = 0.5  # before a job whose worker was lost is worked on again


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
    ended: float | None = None
    size: int = 0
    checkpoint: Checkpoint | None = None
    interruptions: int = 0
    interrupted_at: int = 0
    cancelled: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    def of(cls, record: Record, folder: Path) -> Job:
        """A job as the store remembers it."""
        saved = record.checkpoint
        return cls(
            record.id,
            _SPEC.validate_json(record.spec),
            folder,
            record.created,
            JobState(record.state),
            record.error,
            record.results,
            record.expected,
            record.ended,
            record.size,
            None if saved is None else _CHECKPOINT.validate_json(saved),
            record.interruptions,
            record.interrupted_at,
        )

    def record(self) -> Record:
        """What the store shall remember."""
        return Record(
            self.id,
            self.created,
            self.ended,
            self.state,
            self.error,
            _SPEC.dump_json(self.spec).decode(),
            self.results,
            self.expected,
            self.size,
            None if self.checkpoint is None else _CHECKPOINT.dump_json(self.checkpoint).decode(),
            self.interruptions,
            self.interrupted_at,
        )

    @property
    def finished(self) -> bool:
        """Nothing will change any more."""
        return self.state in _FINISHED

    @property
    def part(self) -> Path:
        """Where the upload is written to."""
        return self.folder / "clip.part"

    @property
    def upload(self) -> Path:
        """The whole clip."""
        return self.folder / "clip"

    def interrupted(self, who: str = "the server") -> None:
        """Who worked on this job died: queue it again, unless that is no use."""
        frame = self.checkpoint.frames if self.checkpoint else 0
        same = self.interruptions and self.interrupted_at == frame
        self.interruptions = self.interruptions + 1 if same else 1
        self.interrupted_at = frame
        self.state = JobState.QUEUED
        if self.interruptions >= _MAX_INTERRUPTIONS:
            self.state, self.ended = JobState.FAILED, time.time()
            self.error = (
                f"{who} died {self.interruptions} times in a row on the frames from {frame} "
                "on; the clip is not tried again"
            )

    def cut_back(self) -> None:
        """Bring the files to the checkpoint; to the start where they do not hold it any more."""
        try:
            cut_back(self.folder, self.checkpoint)
        except DamagedError as error:
            _log.warning("clip %s starts again from its first frame: %s", self.id, error)
            self.checkpoint = None
            cut_back(self.folder, None)
        self.results = self.checkpoint.results if self.checkpoint else 0

    def results_whole(self) -> bool:
        """Whether the results are what they were when the job was done; true before."""
        if self.state is not JobState.DONE or self.checkpoint is None:
            return True
        return results_whole(self.folder, self.checkpoint)

    def tidy(self) -> None:
        """Remove what only unfinished jobs need."""
        for path in (self.part, self.upload):
            path.unlink(missing_ok=True)
        tidy(self.folder)

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
        store: JobStore,
    ) -> None:
        self._config, self._engine, self._metrics = config, engine, metrics
        self._decoders, self._store = decoders, store
        self._unsaved: set[Job] = set()
        self._folder = config.data_dir.resolve() / "clips"
        self._scheduler = scheduler
        self._jobs: dict[str, Job] = {}
        self._wake = asyncio.Event()
        self._runner: asyncio.Task[None] | None = None
        self._limits = ClipLimits(
            max_bytes=config.max_clip_bytes,
            max_seconds=config.max_clip_seconds,
            max_frames=config.max_clip_frames,
            frame=Limits(max_pixels=config.max_pixels),
        )

    async def start(self) -> None:
        """Take up what an earlier server left, and begin to work. StoreError if it is unusable."""
        for job in await asyncio.to_thread(self._recover):
            self._jobs[job.id] = job
        self._count()
        self._runner = asyncio.create_task(self._work())

    def _recover(self) -> list[Job]:
        jobs = [Job.of(record, self._folder / record.id) for record in self._store.load()]
        known = {job.id for job in jobs}
        for folder in self._folder.glob("*"):
            if _ID.fullmatch(folder.name) and folder.is_dir() and folder.name not in known:
                shutil.rmtree(folder, ignore_errors=True)  # an upload that was cut off
        for job in jobs:
            if job.state is JobState.RUNNING:
                job.interrupted()
            if job.finished:
                job.tidy()
            else:
                job.folder.mkdir(parents=True, exist_ok=True)
                job.cut_back()
            try:
                self._store.save(job.record())
            except StoreError as error:
                _log.warning("clip %s: %s", job.id, error)
                self._unsaved.add(job)
        return jobs

    async def close(self) -> None:
        """Stop after the frame at hand; the job at hand is parked."""
        if self._runner is not None:
            self._runner.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._runner
        await asyncio.to_thread(self._store.close)

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

    async def submit(self, job: Job) -> None:
        """The upload is complete: it is put in place, and the job in the queue.

        Raises:
            StoreError: the job cannot be remembered; it is not queued.
            OSError: the disk is full, for one.
        """
        await asyncio.to_thread(put_in_place, job.part, job.upload)
        queued = replace(job.record(), state=JobState.QUEUED)
        await asyncio.to_thread(self._store.save, queued)
        self._become(job, JobState.QUEUED)
        self._wake.set()

    async def delete(self, job: Job) -> None:
        """Stop the job if it runs, and remove everything of it.

        Raises:
            StoreError: it cannot be forgotten; the job stays, cancelled.
        """
        job.cancelled = True
        while job.state is JobState.RUNNING:
            await job.changed.wait()
        uploading = job.state is JobState.UPLOADING
        if not job.finished:
            job.ended = time.time()
            self._become(job, JobState.CANCELLED)
            self._unsaved.add(job)
        try:
            await asyncio.to_thread(self._store.delete, job.id)
        except StoreError:
            if not uploading:
                raise
        self._unsaved.discard(job)
        self._jobs.pop(job.id, None)
        self._count()
        await asyncio.to_thread(shutil.rmtree, job.folder, ignore_errors=True)

    async def _work(self) -> None:
        async with asyncio.TaskGroup() as running:
            while True:
                self._wake.clear()
                try:
                    await self._save_rest()
                    await self._retain()
                except Exception:  # the jobs that wait are worked off all the same
                    _log.exception("old clips could not be looked after")
                jobs = self._jobs.values()
                waiting = [j for j in jobs if j.state is JobState.QUEUED and not j.cancelled]
                free = self._engine.clips - sum(job.state is JobState.RUNNING for job in jobs)
                for job in waiting[: max(0, free)]:
                    self._become(job, JobState.RUNNING)
                    running.create_task(self._run(job))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), self._seconds_idle())

    async def _run(self, job: Job) -> None:
        with noted(job=job.id):
            await self._work_on(job)
        self._wake.set()

    async def _work_on(self, job: Job) -> None:
        error: str | None = None
        try:
            await asyncio.to_thread(self._store.save, job.record())
            await self._advance(job)
        except (ClipError, EngineError) as refused:
            error = str(refused)
        except StoreError as refused:
            _log.warning("clip %s: %s", job.id, refused)
            error = refused.public
        except WorkerLost as lost:
            error = await self._queue_again(job, lost)
            if error is None:
                return
        except asyncio.CancelledError:
            self._become(job, JobState.QUEUED)  # parked at its checkpoint
            await self._save(job)
            raise
        except Exception as failure:
            if isinstance(failure, OSError) and disk_full(failure):
                error = f"the disk of the server is full ({failure.strerror})"
                _log.warning("clip %s: %s", job.id, error)
            else:
                error = "the server failed on this clip; its log says more"
                _log.exception("clip %s failed", job.id)
        try:
            await self._end(job, error)
        except Exception:
            _log.exception("the end of clip %s failed", job.id)
            job.error = error or "the server failed at the end of this clip; its log says more"
            self._unsaved.add(job)
            self._become(job, JobState.FAILED)

    async def _queue_again(self, job: Job, lost: WorkerLost) -> str | None:
        """Queue a job whose worker is gone at its checkpoint; gives the reason where it ends."""
        _log.warning("clip %s goes on with another worker: %s", job.id, lost)
        try:
            await asyncio.to_thread(job.cut_back)
        except OSError as error:
            return f"the files of the clip cannot be used ({error.strerror})"
        await asyncio.sleep(_RELAY_SECONDS)
        if lost.reason == "worker_lost":
            job.interrupted("a worker")
            if job.finished:
                return job.error
        self._become(job, JobState.QUEUED)
        await self._save(job)
        return None

    async def _end(self, job: Job, error: str | None) -> None:
        state = JobState.FAILED if error else JobState.DONE
        if job.cancelled:
            state = JobState.CANCELLED
        job.error, job.ended = error, time.time()
        job.size = await asyncio.to_thread(kept_size, job.folder)
        if state is not JobState.DONE:  # make room first: the store may need it
            await asyncio.to_thread(job.tidy)
        if await self._save(job, state):
            await asyncio.to_thread(job.tidy)
        self._become(job, state)

    async def _advance(self, job: Job) -> None:
        # decoding waits outside the lane: a decoder that hangs holds up no stream's inference
        clip = await asyncio.to_thread(self._decoders.open_clip, job.upload, self._limits)
        lane = self._scheduler.lane(Priority.CLIP)
        try:
            work = await lane.run(
                lambda: ClipWork(self._engine, job.spec, clip, job.folder, job.checkpoint)
            )
        except BaseException:
            clip.close()
            raise
        try:
            job.expected = work.expected
            while not job.cancelled and await asyncio.to_thread(work.fetch):
                await lane.run(work.advance)
                job.results = work.results
                if work.latest is not None:
                    self._metrics.inferred(job.spec.model, work.latest)
                if work.checkpoint is not job.checkpoint:
                    job.checkpoint = work.checkpoint
                    await asyncio.to_thread(self._store.save, job.record())
                job.notify()
            if not job.cancelled:
                report = await lane.run(work.finish)
                await asyncio.to_thread(write_in_place, job.folder / REPORT, json.dumps(report))
                job.checkpoint = work.checkpoint
        finally:
            await lane.idle()
            await asyncio.shield(asyncio.to_thread(work.close))

    async def _save(self, job: Job, state: JobState | None = None) -> bool:
        """Remember a job, in a state that it is about to get; where that fails, later again."""
        record = replace(job.record(), state=state or job.state)
        try:
            await asyncio.to_thread(self._store.save, record)
            if job.id not in self._jobs:  # deleted meanwhile
                await asyncio.to_thread(self._store.delete, job.id)
        except StoreError as error:
            _log.warning("clip %s: %s", job.id, error)
            self._unsaved.add(job)
            return False
        self._unsaved.discard(job)
        return True

    async def _save_rest(self) -> None:
        for job in list(self._unsaved):
            if not await self._save(job):
                return
            if job.finished:
                await asyncio.to_thread(job.tidy)

    async def _retain(self) -> None:
        """Delete finished jobs, the oldest first, that are too old, too many or too big."""
        config, now = self._config, time.time()
        finished = sorted((job for job in self._jobs.values() if job.finished), key=_ended)
        size = sum(job.size for job in finished)
        for place, job in enumerate(finished):
            too_old = now - _ended(job) >= config.clips_max_age
            too_many = len(finished) - place > config.max_clips_kept
            too_big = size > config.clips_max_bytes and job is not finished[-1]
            if not (too_old or too_many or too_big):
                continue
            size -= job.size
            try:
                await self.delete(job)
            except StoreError as error:
                _log.warning("clip %s is kept: %s", job.id, error)
                return

    def _seconds_idle(self) -> float:
        """How long nothing has to be looked after unless a job comes."""
        if self._unsaved:
            return _RETRY_SECONDS
        oldest = min((_ended(job) for job in self._jobs.values() if job.finished), default=None)
        age = self._config.clips_max_age
        left = age if oldest is None else oldest + age - time.time()
        return min(max(left, _RETRY_SECONDS), 3600.0)

    def _become(self, job: Job, state: JobState) -> None:
        job.state = state
        facts = {"job": job.id, "model": job.spec.model, "results": job.results}
        facts |= {"error": job.error} if job.error else {}
        _log.info("clip job %s", state, extra={"facts": facts})
        self._count()
        job.notify()

    def _count(self) -> None:
        states = [job.state for job in self._jobs.values()]
        for state in JobState:
            self._metrics.clips.labels(state.value).set(states.count(state))


def _ended(job: Job) -> float:
    return job.ended or job.created

"""Shares the CPUs, or the GPU, among the requests that a server has: a text of each in turn."""

import asyncio
import threading
import time
from collections import Counter, deque
from typing import Any

from nlp_pipeline.serving.model import TextClassifier

WAITING = 1000  # requests; more are refused


class BusyError(Exception):
    """More requests wait than may."""


class Job:
    """The texts of a request, and what has come of them: `answers`, in order, and `spent`, by what it was spent on.

    `spent` has the `tokens`, and the seconds of `tokenise` and `infer`.
    """

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts
        self.answers: list[dict[str, Any]] = [{}] * len(texts)
        self.spent: Counter[str] = Counter()
        self.taken = self.answered = 0
        self.loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = self.loop.create_future()

    def end(self, error: Exception | None = None) -> None:
        """Ends it, from any thread."""
        self.loop.call_soon_threadsafe(self._set, error)

    def _set(self, error: Exception | None) -> None:
        if not self.ended.done():  # the client may have gone, or another text have failed
            self.ended.set_exception(error) if error else self.ended.set_result(None)


class Workers:
    """Threads that answer texts, one for each CPU, or one for the GPU.

    A request of many texts holds none up: of the requests that wait, each gets one text answered in turn.
    """

    def __init__(self, classifier: TextClassifier) -> None:
        self.classifier = classifier
        self.waiting: deque[Job] = deque()
        self.busy = 0
        self.changed = threading.Condition()
        for _ in range(1 if classifier.on_gpu else classifier.cpus):
            threading.Thread(target=self.work, daemon=True).start()

    async def answer(self, texts: list[str]) -> Job:
        """Answers the texts of a request; BusyError where too many wait, else whatever a text of it has raised."""
        job = Job(texts)
        if texts:
            with self.changed:
                if len(self.waiting) >= WAITING:
                    raise BusyError(f"{WAITING} requests wait already: send it again later")
                self.waiting.append(job)
                self.changed.notify()
            await job.ended
        return job

    def work(self) -> None:
        """Answers one call's texts after another."""
        while True:
            places, session = self.take()
            try:
                self.compute(places, session)
            except Exception as error:  # noqa: BLE001, whatever it is, the request gets it
                if len(places) == 1:
                    self.fail(places[0][0], error)
                else:  # whose is it?
                    for place in places:
                        try:
                            self.compute([place], session)
                        except Exception as own:  # noqa: BLE001
                            self.fail(place[0], own)
            with self.changed:
                self.busy -= 1

    def take(self) -> tuple[list[tuple[Job, int]], Any]:
        """Waits for texts; returns those of the next model call, each as a request and a place in it, and the session.

        A text that nothing else stands beside is computed by all CPUs together.
        """
        places: list[tuple[Job, int]] = []
        with self.changed:
            while not self.waiting:
                self.changed.wait()
            while self.waiting and len(places) < self.classifier.chunk:
                job = self.waiting.popleft()
                places.append((job, job.taken))
                job.taken += 1
                if job.taken < len(job.texts):
                    self.waiting.append(job)
            if self.waiting:
                self.changed.notify()
            is_alone = self.classifier.on_gpu or not (self.waiting or self.busy)
            self.busy += 1
        return places, self.classifier.together if is_alone else self.classifier.single

    def compute(self, places: list[tuple[Job, int]], session: Any) -> None:
        """Answers texts by one model call, and ends the requests that have all of their answers then."""
        began = time.perf_counter()
        columns, counts = self.classifier.tokenise([job.texts[at] for job, at in places])
        tokenised = time.perf_counter()
        answers = self.classifier.name(self.classifier.infer(columns, counts, session))
        rows = iter(columns["attention_mask"].sum(axis=1))
        tokens = [sum(int(next(rows)) for _ in range(count)) for count in counts]
        seconds = {"tokenise": tokenised - began, "infer": time.perf_counter() - tokenised}
        with self.changed:
            for (job, at), answer, count in zip(places, answers, tokens, strict=True):
                job.answers[at] = answer
                job.answered += 1
                job.spent.update({stage: took / len(places) for stage, took in seconds.items()})
                job.spent["tokens"] += count
        for job in {job for job, _ in places}:
            if job.answered == len(job.texts):
                job.end()

    def fail(self, job: Job, error: Exception) -> None:
        """Ends a request with an error, and leaves its other texts."""
        with self.changed:
            job.taken = len(job.texts)
            if job in self.waiting:
                self.waiting.remove(job)
        job.end(error)

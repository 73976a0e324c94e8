"""What a caller holds of a request: its events as they come, its answers, and the means to stop it."""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING

from sensorium.generate.requests import Answer, Event, Finished, Request

if TYPE_CHECKING:
    from sensorium.generate.engine import Engine

OnEvent = Callable[[Event], None]


class Handle:
    """A submitted request.

    Iterating gives its events until the last answer has finished. Where no thread runs the engine, whoever waits
    runs it, step by step.

    Args:
        on_event: called with every event, in the thread that runs the engine: hand it on and return.
    """

    def __init__(self, engine: "Engine", request: Request, on_event: OnEvent | None = None) -> None:
        self.engine, self.request, self.on_event = engine, request, on_event
        self.submitted_s = engine.clock()
        self.answers: list[Answer] = []
        self.is_cancelled = False
        self.error: Exception | None = None  # that the callback raised
        self.num_running = request.n
        self._has_callback = on_event is not None
        self._events: deque[Event] = deque()
        self._changed = threading.Condition()

    @property
    def is_done(self) -> bool:
        """Whether every answer has finished."""
        return self.num_running == 0

    def cancel(self) -> None:
        """Stop it within one step; its answers finish with "cancelled"."""
        self.is_cancelled = True
        self.engine.wake()

    def receive(self, event: Event) -> None:
        """Take an event from the engine."""
        with self._changed:
            on_event = self.on_event  # read once: an async iterator may set it meanwhile
            if on_event is None:
                self._events.append(event)
            self.num_running -= isinstance(event, Finished)
            self._changed.notify_all()
        if on_event is not None:
            try:
                on_event(event)
            except Exception as error:  # the caller's own fault: others are served on, and the caller is told
                self.on_event, self.error, self.is_cancelled = None, error, True

    def __iter__(self) -> Iterator[Event]:
        while True:
            self._wait()
            if self.error is not None:
                raise self.error
            while self._events:
                event = self._events.popleft()
                if isinstance(event, Finished) and event.error is not None:
                    raise event.error
                yield event
            if self.is_done:
                return

    async def __aiter__(self) -> AsyncIterator[Event]:
        """The same without blocking an event loop; the engine must run in a thread (``engine.start()``)."""
        if self._has_callback:
            raise RuntimeError("the events go to on_event; submit without it to iterate over them")
        if not (self.engine.is_running or self.is_done):
            raise RuntimeError("nobody runs the engine; call engine.start(), or iterate without async")
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[Event] = asyncio.Queue()
        with self._changed:
            waiting, self._events = self._events, deque()
            for event in waiting:
                events.put_nowait(event)
            finished = self.request.n - self.num_running - sum(isinstance(e, Finished) for e in waiting)
            self.on_event = lambda event: _ignore(loop.call_soon_threadsafe(events.put_nowait, event))
        while finished < self.request.n:
            event = await events.get()
            finished += isinstance(event, Finished)
            if isinstance(event, Finished) and event.error is not None:
                raise event.error
            yield event

    def results(self) -> list[Answer]:
        """All answers, once they have finished.

        Raises:
            Exception: what made an answer fail.
        """
        for _ in self:
            pass
        return self.answers

    def result(self) -> Answer:
        """The first answer, once all have finished."""
        return self.results()[0]

    def _wait(self) -> None:
        """Until there is an event or nothing more to come."""
        while not self._events and not self.is_done:
            if self.engine.is_running:
                with self._changed:
                    if not self._events and not self.is_done:
                        self._changed.wait(0.1)  # the thread may end meanwhile
            else:
                self.engine.step()


def _ignore(_: object) -> None:
    """Callbacks return nothing."""

"""Ctrl-C that is never lost and never tears a file."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def first_interrupt() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets; the second one raises ``KeyboardInterrupt`` as usual.

    An exception raised by the signal itself can land where Python swallows it (a finaliser, a callback of a
    decoder); an event cannot. Outside the main thread, where signals cannot be handled, nothing is changed.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    usual = signal.getsignal(signal.SIGINT)

    def remember(number: int, frame: object) -> None:
        event.set()
        signal.signal(signal.SIGINT, usual)

    signal.signal(signal.SIGINT, remember)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, usual)

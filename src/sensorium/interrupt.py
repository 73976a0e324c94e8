"""Ctrl-C and SIGTERM that are never lost and never tear a file."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

LAUNCHER = "TORCHELASTIC_RUN_ID"  # set where torchrun has started this process


class Interruption(threading.Event):
    """Set by a signal; ``number`` says by which."""

    number: int = signal.SIGINT


@contextmanager
def first_interrupt(*signals: signal.Signals) -> Iterator[Interruption]:
    """An event that the first signal sets; the second one does as usual: it ends the process at once.

    An exception raised by the signal itself can land where Python swallows it (a finaliser, a callback of a
    decoder); an event cannot. Outside the main thread, where signals cannot be handled, nothing is changed.

    Args:
        signals: Ctrl-C (SIGINT) unless others are named.
    """
    event = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    usual = {number: signal.getsignal(number) for number in signals or (signal.SIGINT,)}
    first_at = 0.0

    def restore() -> None:
        for number, handler in usual.items():
            signal.signal(number, handler)

    def remember(number: int, frame: object) -> None:
        nonlocal first_at
        if not event.is_set():
            event.number, first_at = number, time.monotonic()
            event.set()
        # A launcher passes on what the terminal has sent to every process already: that is no second one.
        if LAUNCHER not in os.environ or time.monotonic() - first_at > 1:
            restore()
            if time.monotonic() - first_at > 1:
                signal.raise_signal(number)

    for number in usual:
        signal.signal(number, remember)
    try:
        yield event
    finally:
        restore()

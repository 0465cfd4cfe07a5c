"""Stop signals (Ctrl-C, SIGTERM) of a command: an orderly end, within a few seconds."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from handdata.machine import STOP_SIGNALS, raise_stop

INTERRUPTED = "interrupted; the same command resumes"

# Seconds until a stopped process ends even if one of its threads still waits, such as for a server. Files are whole or
# absent at every moment, and worker processes end with this one, so that nothing is lost.
GRACE = 3.0


@contextmanager
def orderly_stops(program: str) -> Iterator[None]:
    """Raise `KeyboardInterrupt`, or `Terminated`, in the main thread at the first stop signal inside the block.

    `GRACE` seconds later, or at the second signal, the process ends at once. A command that has to finish a step first
    replaces the handler for that time.
    """
    received: list[int] = []
    left: list[bool] = []  # whether the block has ended: then the main function prints the sentence

    def end_now() -> None:
        if not left:
            print(f"{program}: {INTERRUPTED}", file=sys.stderr, flush=True)
        os._exit(128 + received[0])

    def stop(signum: int, frame: Any) -> None:
        received.append(signum)
        if len(received) > 1:
            end_now()
        timer = threading.Timer(GRACE, end_now)
        timer.daemon = True
        timer.start()
        raise_stop(signum)

    if threading.current_thread() is not threading.main_thread():  # Python has signal handlers in the main thread only
        yield
        return
    before = {signum: signal.signal(signum, stop) for signum in STOP_SIGNALS}
    try:
        yield
    finally:
        left.append(True)
        if not received:  # else a signal during the end of the process would print a trace
            for signum, handler in before.items():
                signal.signal(signum, handler)

"""What processes that load data do at their start."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading

from monai.data.utils import worker_init_fn


def outlive_signals(worker: int) -> None:
    """Initialise a process that loads data, and leave it to the training when it ends.

    A cluster sends SIGTERM, and a terminal Ctrl-C, to all processes at once. A training that lost its data in the
    midst of an iteration could not end this iteration and save it. So the process that loads data ignores both, but
    for the SIGTERM of the training itself. Where the system does not tell who sent a signal, SIGTERM ends it.

    Args:
        worker: its number, for MONAI's own initialisation, which this includes.
    """
    worker_init_fn(worker)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        training = multiprocessing.parent_process()  # not os.getppid(), which may be a server that forks
        threading.Thread(target=_end_with, args=(training and training.pid,), daemon=True).start()


def _end_with(training: int | None) -> None:
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != training:
        pass
    os._exit(0)

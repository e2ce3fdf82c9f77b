"""What processes that load data do at their start."""

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
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent:
        pass
    os._exit(0)

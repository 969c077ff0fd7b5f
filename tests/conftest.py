"""What all tests stand on."""

from __future__ import annotations

import signal

import torch


def pytest_sessionstart() -> None:
    """SIGINT as in the foreground: ``make test &`` is started with it ignored, and so would be what tests start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # where opt_einsum is installed, torch chooses the order of a product of several by their sizes: multiply-adds are
    # counted from left to right
    torch.backends.opt_einsum.enabled = False

"""Which line of the user's code is running, or has failed."""

from __future__ import annotations

import linecache
import os
import sys
from types import FrameType

import torch

_TORCH = os.path.dirname(os.path.abspath(torch.__file__)) + os.sep
_HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_START = (_HERE + "record.py", "record")  # who called that is not the model


def user_line() -> tuple[str, str]:
    """ "file:line" of the innermost frame of the user's code (or of a model zoo's) on the stack, and the same in the
    form of a stack trace.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and (frame.f_code.co_filename, frame.f_code.co_name) != _START:
        code = frame.f_code
        file = code.co_filename
        if not (file.startswith((_TORCH, _HERE, "<")) or file.endswith("contextlib.py")):
            number = frame.f_lineno
            text = linecache.getline(file, number).strip()
            return f"{file}:{number}", f'  File "{file}", line {number}, in {code.co_name}\n    {text}\n'
        frame = frame.f_back
    return "", ""


def line_of(error: BaseException) -> str:
    """ "file:line" of the innermost frame of the user's code in a traceback."""
    where = ""
    trace_back = error.__traceback__
    while trace_back is not None:
        file = trace_back.tb_frame.f_code.co_filename
        if not file.startswith((_TORCH, _HERE, "<")):
            where = f"{file}:{trace_back.tb_lineno}"
        trace_back = trace_back.tb_next
    return where

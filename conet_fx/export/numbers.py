"""The numbers in a ``forward``, so that methods which differ in them alone can be one."""

from __future__ import annotations

import dataclasses
import io
import re
import tokenize
from collections.abc import Iterator, Sequence


@dataclasses.dataclass(frozen=True)
class Number:
    """A number in a line of code: where it stands there, and what a parameter that stands for it may be called."""

    start: int
    end: int
    text: str
    name: str


def numbers_in(line: str) -> Iterator[Number]:
    """The numbers in a line from left to right, but for those that say which of several modules is called, and which
    dims an operator turns.
    """
    shift = len(line) - len(line.lstrip())
    before = ""
    calls: list[str] = []  # the function that each open bracket belongs to
    for token in tokenize.generate_tokens(io.StringIO(line.lstrip()).readline):
        if token.string in _OPENING:
            is_call = token.string == "(" and before.isidentifier()
            calls.append(before if is_call else calls[-1] if calls else "")
        elif token.string in _CLOSING:
            calls.pop()
        elif token.type == tokenize.NUMBER:
            start, end = token.start[1] + shift, token.end[1] + shift
            found = _KEYWORD.search(line, 0, start)
            keyword = found[1] if found else ""
            turns = keyword in _DIMS or (calls and calls[-1] in _TURNING)
            if not turns and not _MODULE.search(line, 0, start):
                yield Number(start, end, token.string, keyword or ("size" if token.string.isdecimal() else "factor"))
        before = token.string


def with_numbers(line: str, values: Iterator[str]) -> str:
    """The line with the next of the values in place of each of its numbers."""
    parts, last = [], 0
    for number in numbers_in(line):
        parts += [line[last : number.start], next(values)]
        last = number.end
    return "".join([*parts, line[last:]])


def without_numbers(lines: Sequence[str]) -> list[str]:
    """The same lines for methods that differ in numbers only."""
    return [with_numbers(line, iter(lambda: "_", None)) for line in lines]


_OPENING, _CLOSING = ("(", "[", "{"), (")", "]", "}")
_DIMS = ("dim", "dims", "axis", "start_dim", "end_dim")
_TURNING = ("permute", "transpose", "movedim", "swapaxes", "flatten", "squeeze", "unsqueeze", "unbind", "flip")
_MODULE = re.compile(r"\bself(\.\w+|\[\d+\])*\[\Z")
_KEYWORD = re.compile(r"\b(\w+)=\Z")

"""Lines of Python that are not too long."""

from __future__ import annotations

from collections.abc import Iterator

WIDTH = 120
_INDENT = "    "


def wrapped(line: str, level: int) -> list[str]:
    """A statement at an indentation, its last brackets opened over several lines where it is too long for one.

    A call of the constructors of several modules has a line for each of them.
    """
    indent = _INDENT * level
    if len(indent) + len(line) <= WIDTH:
        return [indent + line]
    start = _opening(line)
    if start is None:
        return [indent + line]
    end = _closing(line, start)
    if line[start + 1] in "([{" and line[end - 1] in ")]}" and _closing(line, start + 1) == end - 1:
        inner = (start + 2, end - 1)  # ModuleDict({...})
    else:
        inner = (start + 1, end)
    parts = list(_parts(line[slice(*inner)]))
    if len(parts) == 1 and not parts[0].endswith((")", "]", "}")):
        return [indent + line]
    lines = [indent + line[: inner[0]]]
    if any("(" in part or len(indent) + 5 + len(part) > WIDTH for part in parts):
        for part in parts:
            lines += wrapped(f"{part},", level + 1)
    else:
        lines += _filled([f"{part}," for part in parts], _INDENT * (level + 1))
    return [*lines, indent + line[inner[1] :]]


def _filled(parts: list[str], indent: str) -> list[str]:
    lines = [indent + parts[0]]
    for part in parts[1:]:
        if len(lines[-1]) + 1 + len(part) <= WIDTH:
            lines[-1] += f" {part}"
        else:
            lines.append(indent + part)
    return lines


def _opening(line: str) -> int | None:
    """Where the brackets open that close last, of those which no other brackets hold."""
    depth, found = 0, None
    for position, character in _code(line):
        if character in "([{":
            found = position if depth == 0 else found
            depth += 1
        elif character in ")]}":
            depth -= 1
    return found


def _closing(line: str, start: int) -> int:
    depth = 0
    for position, character in _code(line):
        if position >= start:
            depth += (character in "([{") - (character in ")]}")
            if depth == 0:
                return position
    raise AssertionError(f"brackets do not match in {line}")


def _parts(text: str) -> Iterator[str]:
    """What stands between the commas that no brackets hold."""
    depth, start = 0, 0
    for position, character in _code(text):
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            yield text[start:position].strip()
            start = position + 1
    if rest := text[start:].strip():
        yield rest


def _code(text: str) -> Iterator[tuple[int, str]]:
    """The characters outside of strings."""
    quote, escaped = "", False
    for position, character in enumerate(text):
        if quote:
            escaped, closes = character == "\\" and not escaped, character == quote and not escaped
            quote = "" if closes else quote
        elif character in "\"'":
            quote = character
        else:
            yield position, character

"""One HTML document that needs nothing else: no network, no library, no font."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import string
from collections.abc import Sequence
from importlib import resources
from typing import Any


def document(title: str, body: str, scripts: Sequence[str], payload: Any, **texts: str) -> str:
    """The page of the template ``body``, where ``$name`` stands for each of ``texts``, with ``scripts`` as one module.

    ``title`` and ``texts`` come from users: they reach the page as escaped text, and ``payload`` as JSON that is only
    ever set as text. The page's own security policy lets no script run but ours.
    """
    files = resources.files("conet_fx.report")

    def read(name: str) -> str:
        return files.joinpath(name).read_text("utf-8")

    style = read("page.css")
    script = "\n".join(read(name) for name in scripts)
    shown = {name: html.escape(text) for name, text in {"title": title, **texts}.items()}
    return string.Template(read("page.html")).substitute(
        title=shown["title"],
        body=string.Template(read(body)).substitute(shown),
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
        payload=_embed(payload),
    )


def significant(value: float | None, digits: int = 5) -> float | None:
    """A number for a chart: what is not finite is None, and digits that nobody can see are dropped."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.{digits}g}")


def _embed(value: Any) -> str:
    """JSON for a script element: nothing in it can end the element, and what is not finite is null."""
    text = json.dumps(_finite(value), allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def _hash(text: str) -> str:
    """The name of an inline element in the page's content security policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

"""JSON documents with a checksum of their own: one that was changed or cut off is not taken for what was written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from conet_fx.recipe.files import digest

_SUM = "sha256"


def seal(document: Mapping[str, Any]) -> str:
    """The text of a document, to be read by :func:`unseal`."""
    plain = json.loads(json.dumps(document, allow_nan=False))  # what will be read: lists for tuples
    return json.dumps({**plain, _SUM: digest(plain)}, indent=1) + "\n"


def unseal(text: str) -> dict[str, Any]:
    """The document in a text. Raises ``ValueError`` where it is none of :func:`seal`, or has been changed."""
    document = json.loads(text)
    if not isinstance(document, dict) or _SUM not in document:
        raise ValueError("it has no checksum")
    if document.pop(_SUM) != digest(document):
        raise ValueError("its checksum does not fit")
    return document

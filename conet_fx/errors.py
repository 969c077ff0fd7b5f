"""The exceptions of conet-fx: one root, one class a stage.

Every message says what was wrong, where (module path, node, file and line of the user's model) and what to do.
Bad arguments raise ``ValueError`` or ``TypeError`` before any training.
"""

from __future__ import annotations


class ConetError(Exception):
    """Root of all errors that conet-fx raises on purpose."""


class TraceError(ConetError):
    """The model cannot be traced into a graph."""


class ConstraintError(ConetError):
    """The channel axis cannot be followed through an operator (only with ``strict=True``)."""


class ResizeError(ConetError):
    """The sizes asked for are not among those that the channel groups allow."""


class SearchError(ConetError):
    """A search cannot start or go on."""


class RecipeError(ConetError):
    """A saved network cannot be read, or does not belong to this model."""


class ExportError(ConetError):
    """A network cannot be written in the form that was asked for."""

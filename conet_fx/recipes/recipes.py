"""Reading recipes."""

from __future__ import annotations

import dataclasses
import difflib
import os
from pathlib import Path
from typing import Any

import yaml

from conet_fx.final import EvaluationConfig
from conet_fx.search.config import SearchConfig

FOLDER = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How sizes are searched, and how the networks are trained to the end after it.

    ``batch_size`` is that of the search; ``final`` has its own.
    """

    name: str
    search: SearchConfig
    final: EvaluationConfig
    batch_size: int


def names() -> list[str]:
    """The built-in recipes."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def recipe(name: str) -> Recipe:
    """A built-in recipe of the paper, such as ``cifar-darts``.

    Raises:
        ValueError: there is none of that name.
    """
    return read(path(name))


def path(name: str) -> Path:
    """The file of a built-in recipe. Raises ValueError for another name."""
    if name not in names():
        close = difflib.get_close_matches(name, names(), n=1)
        hint = f", did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"no recipe is named {name!r}{hint} (known: {', '.join(names())})")
    return FOLDER / f"{name}.yaml"


def read(file: str | os.PathLike[str]) -> Recipe:
    """A recipe from a YAML file: fields of SearchConfig, ``batch_size``, and under ``final`` those of EvaluationConfig.

    Raises:
        ValueError: the file is no such recipe, or a setting is out of range; names the file.
        FileNotFoundError: there is no such file.
    """
    file = Path(file)
    try:
        settings: dict[str, Any] = dict(yaml.safe_load(file.read_text(encoding="utf-8")))
        final = dict(settings.pop("final"))
        batch_size = settings.pop("batch_size")
        final["seeds"] = tuple(final.get("seeds", EvaluationConfig.seeds))
        found = Recipe(file.stem, SearchConfig(**settings), EvaluationConfig(**final), batch_size)
    except KeyError as error:
        raise ValueError(f"{file} is no recipe: it lacks {error}") from error
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise ValueError(f"{file} is no recipe: {error}") from error
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"{file} is no recipe: batch_size={batch_size!r}: write an integer >= 1")
    return found

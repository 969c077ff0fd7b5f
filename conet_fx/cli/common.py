"""What all commands have, and some of them."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from argparse import ArgumentError
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from jsonargparse import ActionConfigFile, ArgumentParser, DefaultHelpFormatter, Namespace  # type: ignore[attr-defined]
from jsonargparse.typing import PositiveInt
from torch import nn

from conet_fx.plan import ChannelPlan, analyze

T = TypeVar("T")

EXIT_CODES = """\
exit status:
  0    done
  1    failed, as one line on standard error says (--debug shows where)
  2    wrong usage
  130  interrupted (SIGINT, Ctrl-C)
  143  terminated (SIGTERM)
"""


class Help(DefaultHelpFormatter):
    """Keeps the lines of the exit codes."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text == EXIT_CODES else str(super()._fill_text(text, width, indent))


def command(function: Callable[[Namespace], None]) -> ArgumentParser:
    """The parser of a subcommand, with what all have."""
    parser = ArgumentParser(
        description=inspect.getdoc(function), epilog=EXIT_CODES, formatter_class=Help, exit_on_error=False
    )
    parser.add_argument("--config", action=ActionConfigFile, help="a YAML file with any of the settings below")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def add_analysis(parser: ArgumentParser) -> None:
    """How a network is traced and what may change in it."""
    parser.add_argument("--shape", type=int, nargs=3, default=[3, 224, 224], help="channels, height and width")
    parser.add_argument("--classes", type=PositiveInt, default=10)
    parser.add_argument("--tie_concat", action="store_true", help="parts of a concatenation keep their proportion")
    parser.add_argument("--resize_linear", action="store_true", help="hidden linear layers may change too")
    parser.add_argument("--strict", action="store_true", help="fail at an operator that is not in the table")


def plan_of(model: nn.Module, arguments: Namespace) -> ChannelPlan:
    return analyze(
        model.eval(),
        torch.zeros(1, *arguments.shape),
        tie_concat=arguments.tie_concat,
        resize_linear=arguments.resize_linear,
        strict=arguments.strict,
    )


def names(cls: type[Any]) -> list[str]:
    return [field.name for field in dataclasses.fields(cls)]


def checked(cls: type[T], settings: Mapping[str, Any] | Namespace) -> T:
    """The data class of these settings. A value out of range is wrong usage."""
    values = dict(settings.items())
    try:
        fields = {name: values[name] for name in names(cls) if name in values}
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()})
    except (TypeError, ValueError) as error:
        raise ArgumentError(None, str(error)) from error


def tell(words: str) -> None:
    print(words, file=sys.stderr)


def nobody(words: str) -> None:
    pass

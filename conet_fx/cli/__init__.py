"""The command line: conet-fx search, evaluate, report, graph, resize, export.

conet-fx search --arch resnet18_cifar --data digits
conet-fx search --arch torchvision:mobilenet_v2 --data cifar10 --root data --delta 0.01 --trials 25
conet-fx evaluate runs/resnet18_cifar-digits --epochs 250 --seeds [0,1,2]
conet-fx report runs/resnet18_cifar-digits
conet-fx graph torchvision:densenet121 --shape 3 224 224 -o densenet.svg
conet-fx resize runs/mine/found --sizes layer1.0.conv1=24 --round_to 8 -o smaller
conet-fx export runs/resnet18_cifar-digits -o network.py
conet-fx export runs/resnet18_cifar-digits --shape 3 8 8 -o network.onnx
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from argparse import ArgumentError
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType

from jsonargparse import ArgumentParser, set_parsing_settings

from conet_fx.cli import evaluate, export, graph, report, resize, search
from conet_fx.cli.common import EXIT_CODES, Help
from conet_fx.errors import ConetError

COMMANDS: Mapping[str, ModuleType] = {
    "search": search,
    "evaluate": evaluate,
    "report": report,
    "graph": graph,
    "resize": resize,
    "export": export,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command. Returns the exit status, as :data:`EXIT_CODES` has it."""
    sys.path.insert(0, os.getcwd())  # mymodel:factory is looked up where the user stands
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        with _terminable():
            arguments = _parser(words).parse_args(words)
            COMMANDS[arguments.subcommand].run(arguments[arguments.subcommand])
            sys.stdout.flush()
    except BrokenPipeError:  # who reads our output has seen enough; nothing may be left to flush at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        return _failed("interrupted", 130)
    except _Terminated:
        return _failed("terminated", 143)
    except SystemExit as end:  # a search that was terminated has saved what it did
        if end.code == 143:
            return _failed("terminated", 143)
        raise
    except ArgumentError as error:
        command = f"conet-fx {words[0]}" if words and words[0] in COMMANDS else "conet-fx"
        return _failed(f"{_line(error)} (see {command} --help)", 2)
    except Exception as error:
        if "--debug" in words:
            raise
        ours = isinstance(error, (ConetError, ValueError, TypeError, OSError))
        return _failed(_line(error) if ours else f"{type(error).__name__}: {_line(error)} (--debug shows where)", 1)
    return 0


def _failed(message: str, status: int) -> int:
    print(f"conet-fx: {message}", file=sys.stderr)
    return status


def _line(error: BaseException) -> str:
    """An error in one line: a table that follows the first is left out, the rest of a sentence is not."""
    first, _, rest = str(error).strip().partition("\n\n")
    return " ".join(first.split()) + (" (more with --debug)" if rest else "")


class _Terminated(BaseException):
    """SIGTERM."""


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the command as Ctrl-C does, so that what it has opened is closed."""
    elsewhere = threading.current_thread() is not threading.main_thread()  # signals reach the main thread only
    if elsewhere or signal.getsignal(signal.SIGTERM) is signal.SIG_IGN:
        yield
        return

    def terminate(number: int, frame: object) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _parser(words: Sequence[str]) -> ArgumentParser:
    set_parsing_settings(add_print_completion_argument=True)
    parser = ArgumentParser(
        prog="conet-fx",
        description="Find the right channel size for every layer of a CNN.",
        epilog=EXIT_CODES,
        formatter_class=Help,
        exit_on_error=False,
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subcommands(required=True, dest="subcommand")
    for name, module in COMMANDS.items():
        commands.add_subcommand(name, module.parser_of(words), help=module.HELP)
    return parser

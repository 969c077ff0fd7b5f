"""Progress in a terminal, in a pipe, and switched off."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from conet_fx.report import Progress


def follow(progress: Progress, first: int = 1) -> None:
    with progress as p:
        for number in range(first, 4):
            p.trial(number, params=1_270_000, moving=12 - number)
            for epoch in (1, 2):
                p.epoch(epoch, loss=2.0 / epoch, accuracy=0.4 * epoch if number > 1 else None)


def output(*, terminal: bool, enabled: bool = True, first: int = 1) -> str:
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=120, color_system=None)
    follow(Progress(enabled=enabled, trials=3, epochs=2, console=console), first)
    return file.getvalue()


def test_a_pipe_gets_one_plain_line_a_trial() -> None:
    text = output(terminal=False)
    lines = text.splitlines()
    assert len(lines) == 3
    assert "\x1b" not in text
    assert "\r" not in text
    assert text.isascii()
    assert lines[0].startswith("trial 1/3  1.27 M parameters  loss 1.000  11 groups moving  at most ")
    assert lines[2] == "trial 3/3  1.27 M parameters  loss 1.000  accuracy 80.0 %  9 groups moving"


def test_a_terminal_gets_a_live_line() -> None:
    text = output(terminal=True)
    assert "\x1b[" in text
    assert "epoch 2/2" in text
    assert text.endswith("\x1b[?25h") or "\x1b[?25h" in text, "the cursor is shown again"


@pytest.mark.parametrize("terminal", [True, False])
def test_a_note_has_a_line_of_its_own(terminal: bool) -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=120, color_system=None)
    with Progress(trials=3, epochs=2, console=console) as progress:
        progress.note("too short")
    assert "too short\n" in file.getvalue().replace("\r", "")


@pytest.mark.parametrize("terminal", [True, False])
def test_off(terminal: bool) -> None:
    assert output(terminal=terminal, enabled=False) == ""


def test_the_cursor_comes_back_after_an_error() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=120)

    def interrupted() -> None:
        with Progress(trials=3, epochs=2, console=console) as p:
            p.trial(1, params=10, moving=1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert "\x1b[?25h" in file.getvalue()


def test_time_left_counts_only_what_ran_here(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("conet_fx.report.progress.time.monotonic", lambda: now[0])
    file = io.StringIO()
    with Progress(trials=10, epochs=2, console=Console(file=file, force_terminal=False)) as p:
        p.trial(9, params=10, moving=1)  # resumed: eight trials lie behind us, none of them in this process
        now[0] = 30.0
        p.epoch(1, loss=1.0)
        now[0] = 60.0
        p.epoch(2, loss=1.0)
    assert "at most 1 min 00 s left" in file.getvalue()

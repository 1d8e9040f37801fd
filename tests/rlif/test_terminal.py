"""What comes from files and models is shown on the terminal and commands nothing."""

from __future__ import annotations

import io

import pytest
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rlif.printable import one_line, printable
from rlif.terminal import Printable, make_console

EVIL = "a\x1b]0;title\x07\x1b[2Jb\x9b31mc\u202ed\x7f"


def test_no_character_that_a_terminal_obeys_is_left() -> None:
    shown = printable(EVIL + "\n\tend")
    assert not any(character in shown for character in "\x1b\x07\x9b\u202e\x7f")
    assert shown.endswith("\n\tend")
    assert "\n" not in one_line("a\nb\u2028c\r\n")
    assert printable("größer 数 🙂 #### 42") == "größer 数 🙂 #### 42"


@pytest.mark.parametrize("terminal", [True, False])
def test_everything_on_a_console_goes_through_the_door(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    console = make_console()
    table = Table(title=EVIL, caption=EVIL)
    table.add_column(EVIL)
    table.add_row(EVIL)
    for shown in (EVIL, Text(EVIL), table):
        console.print(shown, soft_wrap=True)
        console.print(shown, style="bold", width=20)
    text = capsys.readouterr().out
    assert "]0;title" in text
    for command in ("\x1b]0;", "\x1b[2J", "\x9b", "\u202e"):
        assert command not in text
    assert ("\x1b[1m" in text) is terminal  # the console's own are left


def test_a_live_display_goes_through_it_too() -> None:
    console = make_console()
    console.file = io.StringIO()
    console._force_terminal = True
    with Live(Printable(Text(EVIL)), console=console):
        console.print(EVIL)
    assert "\x1b]0;" not in console.file.getvalue()
    assert console.file.getvalue().count("]0;title") >= 2

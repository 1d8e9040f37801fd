"""`python -m benchmarks`: a wrong argument is one clear line, and the help appears at once."""

import subprocess
import sys

import pytest

from benchmarks import __main__ as command_line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["opps"],
            f"suite is 'opps'; expected some of {', '.join(command_line.SUITE_NAMES)}, or",
        ),
        (["word-prompts"], "--model is None; expected a directory saved by transformers"),
        (["real-step"], "--model is None; expected a directory saved by transformers, for real-step"),
        (["evidence", "--completions", "none.jsonl"], "--completions is none.jsonl; expected a completions.jsonl"),
        (["ops", "--peers", "trk"], "--peers is 'trk'; expected some of"),
        (["shared-prompts", "--model", "/proc/none"], "--model is /proc/none; expected a directory with a config.json"),
        (["ops", "--output", "/proc/none"], "--output is /proc/none; expected a directory"),
    ],
)
def test_a_wrong_argument_is_one_clear_line(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        command_line.main(arguments)
    assert message in capsys.readouterr().err


def test_help_loads_no_torch():
    code = "import sys, benchmarks.__main__ as m; m.parser().format_help(); print({'torch', 'rich'} & set(sys.modules))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "set()"

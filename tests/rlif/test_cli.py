"""The command line: help at once, one line for an error, exit codes as documented."""

import dataclasses
import fcntl
import inspect
import json
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
import termios
import tomllib
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from transformers import AutoModelForCausalLM, AutoTokenizer

from fault_server import Server
from hurt import run_in_process, running, wait_until, without_progress
from rlif import cli
from rlif.extras import TRAIN
from rlif.rewards import REWARDS
from rlif.training.checkpoint import checkpoints
from rlif.training.options import TrainConfig

MakeConfig = Callable[..., TrainConfig]
RLIF = (sys.executable, "-m", "rlif")
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "TERM": "dumb", "COLUMNS": "100"}


def arguments(config: TrainConfig) -> list[str]:
    """The command that stands for a configuration."""
    words = ["train"]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value is not None and value != field.default:
            for word in [value] if not isinstance(value, tuple) else value:
                words += [f"--{field.name.replace('_', '-')}", str(word)]
    return words


def test_help_names_every_option_with_its_meaning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_in_process(["--help"], monkeypatch) == 0
    overview = capsys.readouterr().out
    assert "train" in overview
    assert "demo" in overview
    assert run_in_process(["train", "--help"], monkeypatch) == 0
    text = capsys.readouterr().out
    for field in dataclasses.fields(TrainConfig):
        assert f"--{field.name.replace('_', '-')}" in text
    assert "at least 2" in text.lower()
    assert "{None}" not in text
    assert all(name in text for name in REWARDS)


def test_the_versions_are_those_of_everything_that_a_result_depends_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_in_process(["--version"], monkeypatch) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"rlif {version('rlif')}")
    assert f"Python {platform.python_version()}, torch {version('torch')}, " in printed


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["--version"]])
def test_a_reader_that_stops_reading_ends_the_program_without_a_traceback(words: list[str]) -> None:
    process = subprocess.Popen([*RLIF, *words], env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()  # before the program can have written anything
    assert process.stderr.read() == b""
    assert process.wait(timeout=60) == cli.NOBODY_READS


STREAMS = {
    "full": ("{command} > /dev/full", 2),
    "closed": ("{command} >&-", 0),
    "ascii": ("PYTHONIOENCODING=ascii PYTHONUTF8=0 {command}", 0),
}


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["--version"]])
@pytest.mark.parametrize("kind", STREAMS)
def test_an_output_that_cannot_be_written_to_is_no_traceback(kind: str, words: list[str]) -> None:
    command, code = STREAMS[kind]
    done = subprocess.run(
        ["bash", "-c", command.format(command=shlex.join([*RLIF, *words]))],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    said = "rlif: error: cannot write the output: No space left on device\n" if kind == "full" else ""
    assert done.stderr == said


def test_without_the_extra_every_word_is_answered_with_what_to_install() -> None:
    code = """
import sys
from rlif.extras import TRAIN

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in TRAIN:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import rlif
from rlif import cli
for words in ([], ["--help"], ["train", "--help"], ["nonsense"]):
    sys.argv = ["rlif", *words]
    try:
        cli.main()
    except SystemExit as end:
        print(end.code)
for name in ("TrainConfig", "train", "REWARDS", "load_language_model"):
    try:
        getattr(rlif, name)
        print(name)
    except ModuleNotFoundError as error:
        print(error, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2"] * 4 + ["REWARDS"]  # which needs nothing
    hints = [line for line in done.stderr.splitlines() if "rlif" in line]  # torch warns that it misses NumPy
    assert len(hints) == 4 + 3
    hint = re.compile(r".*without its extra `train`: there is no module \w+; pip install 'rlif\[train\]'")
    assert all(hint.fullmatch(line) for line in hints)


def test_the_extra_brings_the_modules_that_are_said_to_be_in_it() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    extra = {Requirement(each).name.lower() for each in project["optional-dependencies"]["train"]}
    by_module = packages_distributions()
    named = {by_module[module][0].lower().replace("_", "-") for module in TRAIN}
    assert named == extra - {"mpmath", "jinja2"}  # torch brings these


def test_an_error_that_repeats_a_file_commands_nothing(
    tmp_path: Path, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "evil.jsonl"
    for line in ('\x1b]0;title\x07{"', '{"a\\u001b[2Jb\\nc": 1}'):
        data.write_text(line + "\n")
        assert run_in_process(arguments(make_config(data=data)), monkeypatch) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"rlif: error: data: {data}, line 1: got ")
        assert error.count("\n") == 1
        assert "\x1b" not in error


@pytest.mark.parametrize("words", [["--help"], *([name, "--help"] for name in cli.COMMANDS)])
def test_the_help_fits_a_narrow_terminal(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert run_in_process(words, monkeypatch) == 0
    # But for the first line, with the usage: it has the words of a command that can be copied.
    assert max(map(len, capsys.readouterr().out.splitlines()[1:])) <= 60


@pytest.mark.parametrize("words", [["--help"], *([name, "--help"] for name in cli.COMMANDS), ["train", "--max-stps"]])
def test_help_and_mistyped_options_are_answered_without_loading_torch(words: list[str]) -> None:
    code = f"""
import sys
from rlif import cli
try:
    cli.parse({words!r})
except SystemExit as end:
    loaded = [name for name in ("torch", "transformers", "matplotlib") if name in sys.modules]
    sys.exit(f"loaded {{loaded}}" if loaded else end.code)
"""
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == (0 if "--help" in words else 2), done.stderr


def test_a_command_imports_only_its_own_options() -> None:
    code = "import sys; from rlif import cli; cli.parse(['mix', 'a', 'b', '--ratio', '1', '--output-dir', 'c'])"
    code += "; print(*sorted(name for name in sys.modules if name.startswith('rlif.') and 'options' in name))"
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert [name for name in done.stdout.split() if not name.startswith("rlif.options")] == ["rlif.mixing.options"]


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_its_two_doors(name: str) -> None:
    package, _ = cli.COMMANDS[name]
    (config,) = inspect.signature(import_module(f"{package}.command").run).parameters.values()
    assert config.annotation == cli.options_class(name).__name__


@pytest.mark.parametrize("words", [[], ["train"], ["tran"], ["train", "--max-steps", "many"]])
def test_words_that_are_no_command_exit_with_2(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_in_process(words, monkeypatch) == 2
    assert capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": Path("missing.jsonl")}, "data: got 'missing.jsonl', which is not a file"),
        ({"reward": "confidence"}, "reward: got 'confidence', expected one of self_certainty,"),
        ({"reward": ("format", "random=x")}, "reward: got the weight 'x' in 'random=x', expected a finite number"),
        ({"reward": "my.module:f"}, "reward: could not import 'my.module': ModuleNotFoundError: No module named 'my'"),
        ({"num_generations": 1}, "num_generations: got 1, expected an integer of at least 2"),
        ({"model": "/nowhere/model"}, "model: got '/nowhere/model', which does not exist"),
        ({"output_dir": Path(__file__).parent}, "output_dir: "),
    ],
)
def test_bad_input_is_one_line_on_stderr_and_exit_code_2(
    changes: dict[str, object],
    message: str,
    make_config: MakeConfig,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_in_process(arguments(make_config(**changes)), monkeypatch) == 2
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = without_progress(output.err)
    assert line.startswith(f"rlif: error: {message}")


def test_a_bad_line_in_the_data_ends_the_program_with_no_traceback(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "bad.jsonl"
    data.write_text('{"prompt": "1+1="}\n{"question": "1+1="}\n')
    config = make_config(data=data)
    assert run_in_process(arguments(config), monkeypatch) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert without_progress(output.err) == [
        f'rlif: error: data: {data}, line 2: got no `prompt` in {{"question": "1+1="}}; the columns are question '
        "(prompt_column picks one)"
    ]
    assert config.output_dir is not None
    assert not config.output_dir.exists()


def test_train_runs_on_a_handwritten_file_and_a_saved_model(make_config: MakeConfig, tmp_path: Path) -> None:
    data = tmp_path / "by_hand.jsonl"
    data.write_text('{"prompt": "1+1=", "answer": "2"}\n{"prompt": "2+2=", "answer": 4, "level": "easy"}\n\n')
    config = make_config(data=data, eval_data=data, reward="verifiable")
    done = subprocess.run([*RLIF, *arguments(config)], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert config.output_dir is not None
    assert str(config.output_dir) in done.stdout
    start, silence, *steps = without_progress(done.stderr)
    assert [line.split(":")[0] for line in (start, *steps)] == [f"verifiable step {n}/2" for n in (0, 1, 2)]
    # The tiny model has no answers that could be right.
    assert silence.startswith("verifiable warning: no completion of this step states an answer, by which verifiable")
    AutoModelForCausalLM.from_pretrained(config.output_dir / "model")
    AutoTokenizer.from_pretrained(config.output_dir / "model")


def test_ctrl_c_saves_a_checkpoint_says_where_and_exits_with_130(
    make_config: MakeConfig, tmp_path: Path, server: Server
) -> None:
    config = make_config(max_steps=100_000, eval_steps=100_000)
    assert config.output_dir is not None
    metrics = config.output_dir / "metrics.jsonl"
    running = server.start(arguments(config), tmp_path)
    wait_until(lambda: (metrics.exists() and metrics.read_text().count("\n") >= 2) or not running.process.is_alive())
    assert running.process.pid is not None
    os.kill(running.process.pid, signal.SIGINT)
    end = running.wait()
    assert end.code == 130, end.errors
    last = end.errors.splitlines()[-1]
    assert last.startswith("rlif: stopped after step ")
    assert str(config.output_dir) in last
    assert "Traceback" not in end.errors
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    checkpoint = config.output_dir / f"checkpoint-{len(rows)}"
    AutoModelForCausalLM.from_pretrained(checkpoint)
    AutoTokenizer.from_pretrained(checkpoint)


def test_a_terminal_that_is_closed_ends_a_run_with_a_checkpoint(make_config: MakeConfig) -> None:
    config = make_config(max_steps=100_000, eval_steps=100_000)
    assert config.output_dir is not None
    metrics = config.output_dir / "metrics.jsonl"
    ours, theirs = os.openpty()

    def own_terminal() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may be run by nohup
        os.setsid()
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs, "preexec_fn": own_terminal}
    with running(arguments(config), lambda: metrics.exists() and metrics.stat().st_size > 0, **streams) as process:
        os.close(theirs)
        os.close(ours)
        assert process.wait(timeout=60) == 128 + signal.SIGHUP
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert [path.name for path in checkpoints(config.output_dir)] == [f"checkpoint-{steps[-1]}"]


def test_ctrl_c_before_training_says_that_nothing_was_saved(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run", interrupt)
    assert run_in_process(arguments(make_config()), monkeypatch) == 130
    assert capsys.readouterr().err == "rlif: interrupted, nothing saved\n"

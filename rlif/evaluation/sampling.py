"""Sample completions for `rlif eval`: one line of a file after the other, so that what is done is never lost."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rlif.data.prompts import read_prompts
from rlif.errors import UserError
from rlif.evaluation.completions import completion_line
from rlif.evaluation.options import EvalConfig
from rlif.models.language_model import LanguageModel, load_language_model
from rlif.rollouts.decoding_check import check_decoding
from rlif.rollouts.encode import EncodedPrompt, encode_prompts
from rlif.rollouts.sample import sample
from rlif.scoring.confidence import OUTPUTS, confidence_scores

LOG_SECONDS = 30.0  # between two lines of progress where there is no terminal for a bar


@dataclass(frozen=True)
class EvalSampling:
    """A model and prompts, checked."""

    config: EvalConfig
    language_model: LanguageModel
    prompts: list[EncodedPrompt]

    def run(self, path: Path) -> None:
        """Append a line to `path` for every prompt that has none there yet.

        Raises:
            UserError: the file has other prompts than the data, or cannot be written.
            KeyboardInterrupt: Ctrl-C.
        """
        done = finished_lines(path, self.prompts)
        size = self.batch_size()
        console = Console(file=sys.stderr)
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            speed_estimate_period=math.inf,  # by default, of batches longer than half a minute there is no estimate
            console=console,
            disable=not console.is_terminal,
        )
        count, started = done, time.monotonic()
        told = started
        try:
            with bar, path.open("a", encoding="utf-8") as file:
                task = bar.add_task("sampling prompts", total=len(self.prompts), completed=done)
                for start in range(done, len(self.prompts), size):
                    lines = self.lines(start, self.prompts[start : start + size])
                    file.write("".join(f"{line}\n" for line in lines))
                    file.flush()
                    count += len(lines)
                    bar.update(task, completed=count)
                    now = time.monotonic()
                    if not console.is_terminal and now - told >= LOG_SECONDS:
                        left = (now - started) / (count - done) * (len(self.prompts) - count)
                        console.print(f"sampling prompts: {count} of {len(self.prompts)} ({left:.0f} s left)")
                        told = now
        except OSError as error:
            raise UserError(f"output_dir: cannot write {path}: {error.strerror}") from error
        except KeyboardInterrupt as interrupt:
            raise KeyboardInterrupt(
                f"interrupted: {count} of {len(self.prompts)} prompts are in {path}; the same command with "
                f"--output-dir {path.parent} --resume goes on"
            ) from interrupt

    def batch_size(self) -> int:
        """Prompts that are sampled at a time."""
        longest = max(len(prompt.ids) for prompt in self.prompts) + self.config.max_completion_length
        return max(1, self.config.max_batch_tokens // (longest * self.config.num_generations))

    def lines(self, start: int, prompts: Sequence[EncodedPrompt]) -> list[str]:
        """The lines of some prompts, the first of which is number `start` of all."""
        config, count = self.config, self.config.num_generations
        rollout = sample(
            self.language_model,
            prompts,
            num_generations=count,
            max_completion_length=config.max_completion_length,
            temperature=config.temperature,
            seeds=[(config.seed, start + offset) for offset in range(len(prompts))],
            top_k=config.top_k,
            top_p=config.top_p,
            outputs=OUTPUTS,
        )
        vocab_size = self.language_model.model.config.get_text_config().vocab_size
        tensors = confidence_scores(rollout, self.language_model.tokenizer, vocab_size)
        scores = {name: values.tolist() for name, values in tensors.items()}
        lengths, finished = rollout.completion_mask.sum(dim=1).tolist(), rollout.finished.tolist()
        lines = []
        for row in range(0, len(rollout.texts), count):
            group = slice(row, row + count)
            lines.append(
                completion_line(
                    rollout.prompts[row],
                    rollout.answers[row],
                    rollout.texts[group],
                    {name: values[group] for name, values in scores.items()},
                    tokens=lengths[group],
                    finished=finished[group],
                )
            )
        return lines


def prepare_sampling(config: EvalConfig) -> EvalSampling:
    """Read the prompts and load the model.

    Raises:
        UserError: bad input.
    """
    assert config.model is not None
    assert config.data is not None
    prompts = read_prompts(
        config.data,
        prompt_column=config.prompt_column,
        answer_column=config.answer_column,
        data_config=config.data_config,
        split=config.split,
        default_split="test",
    )
    language_model = load_language_model(
        config.model, device=config.device, dtype=config.dtype, attn_implementation=config.attn_implementation
    )
    encoded = encode_prompts(
        language_model,
        prompts,
        config.max_completion_length,
        chat=config.chat,
        system_prompt=config.system_prompt,
    )
    check_decoding(language_model, encoded[0].ids)
    return EvalSampling(config, language_model, encoded)


def finished_lines(path: Path, prompts: Sequence[EncodedPrompt]) -> int:
    """Whole lines of a file that sampling left, after cutting off what was being written when it stopped.

    Raises:
        UserError: they are not the first of the prompts, or have other gold answers.
    """
    if not path.exists():
        return 0
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    lines = whole.decode("utf-8", "replace").split("\n")[:-1]
    if len(lines) > len(prompts):
        raise UserError(f"resume: {path} has {len(lines)} prompts, but the data has {len(prompts)}; expected no change")
    for number, (line, prompt) in enumerate(zip(lines, prompts, strict=False), start=1):
        try:
            row = json.loads(line)
            found = (("prompt", row["prompt"], prompt.text), ("gold answer", row["answer"], prompt.answer))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"resume: {path}, line {number} is damaged: {error}") from error
        for name, there, wanted in found:
            if there != wanted:
                raise UserError(
                    f"resume: {path}, line {number} has another {name} than the data, {there!r} for {wanted!r}; "
                    "expected no change"
                )
    if len(whole) < len(content):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    return len(lines)

"""`rlif introspect`: measure over turns, collect turns and learn from them, again, and measure what came out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from rlif.data.prompts import Prompt, answer_style_of, read_with_options
from rlif.doing import doing
from rlif.errors import UserError
from rlif.evaluation.sampling import append_rows
from rlif.files.lock import Lock
from rlif.introspection.collect import Collecting, describe, read_turns
from rlif.introspection.learn import learn
from rlif.introspection.measure import Measuring, measure, read_taken
from rlif.introspection.options import IntrospectConfig
from rlif.introspection.report import show, write_report
from rlif.models.language_model import LanguageModel, load_with_options
from rlif.models.sources import check_model_path
from rlif.options.record import check_unchanged, make_directory, output_directory
from rlif.rollouts.decoding_check import check_decoding
from rlif.rollouts.encode import EncodedPrompt, check_writable, encode_prompts
from rlif.rollouts.turns import Turns
from rlif.terminal import make_console

# What has no part in what is sampled, learned and measured, but for rounding: it may differ on going on.
CHANGEABLE = frozenset(
    {"device", "prompts_per_batch", "max_tokens_per_forward", "gradient_checkpointing", "save_steps"}
)
START, TUNED = "start", "tuned"


def run(config: IntrospectConfig) -> None:
    """Go through all stages, each from where it stopped, and say what came of it.

    Raises:
        UserError: bad input, before any work starts where it shows by then; what earlier stages wrote is kept.
        KeyboardInterrupt: Ctrl-C; what is computed is kept, and the message says how to go on.
    """
    config.validate()
    check_model_path(config.model)
    output_dir = output_directory(config, "introspect", what="introspection")
    with Lock(output_dir) as lock:
        prompts, held_out = _read(config)
        style = config.answer_style or answer_style_of(
            [*prompts, *held_out], chat=config.chat, system_prompt=config.system_prompt
        )
        config = replace(config, answer_style=style)
        if config.resume:
            what = f"introspection in {output_dir}"
            check_unchanged(output_dir, config, changeable=CHANGEABLE, what=what, prog="rlif introspect")
        model = load_with_options(config, config.model)
        stages = Stages(
            config,
            output_dir,
            _encoded(config, model, prompts, "data"),
            _encoded(config, model, held_out, "eval_data"),
        )
        make_directory(output_dir, config, lock)
        stages.measure(model, START)
        for iteration in range(1, config.iterations + 1):
            stages.collect(model, iteration)
            del model  # while the start model learns, no other takes up memory
            model = load_with_options(config, str(stages.learn(iteration)))
        if config.iterations:
            stages.measure(model, TUNED)
        stages.report()


@dataclass(frozen=True)
class Stages:
    """What is done one after the other, each as files in a directory."""

    config: IntrospectConfig
    """With an answer style."""
    output_dir: Path
    prompts: list[EncodedPrompt]
    held_out: list[EncodedPrompt]

    def measure(self, language_model: LanguageModel, name: str) -> None:
        """Let a model attempt the held-out prompts, if there are any, into eval-NAME.jsonl."""
        if self.held_out:
            measuring = Measuring(self.config, language_model, self.held_out)
            path, title = self._measured(name), f"Measuring the {name} model"
            append_rows(path, self.held_out, measuring.batch_size(), measuring.rows, title=title)

    def collect(self, learner: LanguageModel, iteration: int) -> None:
        """Let the model so far attempt the prompts, into turns-N.jsonl."""
        collecting = Collecting(self.config, learner, self.prompts, iteration)
        path, title = self._collected(iteration), f"Collecting turns, iteration {iteration}"
        append_rows(path, self.prompts, collecting.batch_size(), collecting.rows, title=title)

    def learn(self, iteration: int) -> Path:
        """Train the start model on all turns so far, and return the directory of what came out."""
        collected = [read_turns(self._collected(each)) for each in range(1, iteration + 1)]
        self._say(f"iteration {iteration}: {describe(collected[-1])}")
        final = self.output_dir / ("model" if iteration == self.config.iterations else f"model-{iteration}")
        with self._going_on(f"in iteration {iteration}"):
            metrics = learn(self.config, chain(*collected), self.output_dir / f"train-{iteration}", final)
        tenth = max(1, len(metrics) // 10)
        first, last = (sum(row["nll"] for row in part) / tenth for part in (metrics[:tenth], metrics[-tenth:]))
        self._say(
            f"iteration {iteration}: {len(metrics)} steps; from the first to the last tenth the NLL went from "
            f"{first:.4f} to {last:.4f} nats a token; saved in {final}"
        )
        return final

    def report(self) -> None:
        """Measure what was sampled, write and print it."""
        if self.held_out:
            with self._going_on("in measuring"), doing("measuring"):
                names = [START, TUNED] if self.config.iterations else [START]
                taken = {name: read_taken(self._measured(name), self.config.turns) for name in names}
                found = measure(taken, seed=self.config.seed)
                write_report(self.config, found, self.output_dir)
            show(found, make_console())
            print(f"\nTurns, trainings, introspect.json and introspect.png are in {self.output_dir}")
        else:
            self._say("no eval_data, nothing to measure on")

    def _measured(self, name: str) -> Path:
        return self.output_dir / f"eval-{name}.jsonl"

    def _collected(self, iteration: int) -> Path:
        return self.output_dir / f"turns-{iteration}.jsonl"

    def _say(self, text: str) -> None:
        make_console().print(text, highlight=False, soft_wrap=True, markup=False)

    @contextmanager
    def _going_on(self, where: str) -> Iterator[None]:
        """Within, an interrupt says how to go on."""
        try:
            yield
        except KeyboardInterrupt as interrupt:
            place = f": {interrupt}" if interrupt.args else ""
            raise KeyboardInterrupt(
                f"interrupted {where}{place}; the same command with --output-dir {self.output_dir} --resume goes on"
            ) from None


def _read(config: IntrospectConfig) -> tuple[list[Prompt], list[Prompt]]:
    """Read the prompts to learn from and those to measure on; none where there is nothing of the kind to do."""
    prompts: list[Prompt] = []
    if config.iterations:
        assert config.data is not None
        prompts = read_with_options(config, config.data, config.split, need_answers=config.labels == "gold")
    if config.eval_data is None:
        return prompts, []
    held_out = read_with_options(config, config.eval_data, config.eval_split, argument="eval_data")
    held_out = [prompt for prompt in held_out if prompt.answer is not None]  # by which alone it is measured
    if not held_out:
        raise UserError(f"eval_data: {config.eval_data} has no `{config.answer_column}`, which accuracy is measured by")
    return prompts, held_out


def _encoded(
    config: IntrospectConfig, language_model: LanguageModel, prompts: list[Prompt], argument: str
) -> list[EncodedPrompt]:
    """Tokenize prompts; a model or a chat template that cannot take turns is found out here."""
    if not prompts:
        return []
    encoded = encode_prompts(
        language_model,
        prompts,
        config.max_completion_length,
        argument=argument,
        chat=config.chat,
        system_prompt=config.system_prompt,
        answer_style=config.answer_style,
    )
    check_decoding(language_model, encoded[0].ids)
    check_writable(language_model, "feedback", config.feedback)
    Turns(language_model, config, ()).check(encoded)
    return encoded

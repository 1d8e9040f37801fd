"""rlif's guard as a callback of TRL's trainers: finds when training stops helping, without labels or by gold answers.

`rlif/training/guard.py` says what it looks at. Here it samples, evaluates and judges as `rlif train` does.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate.utils import is_peft_model
from transformers import PreTrainedModel, Trainer, TrainerCallback
from trl import GRPOTrainer
from trl.trainer.utils import use_adapter

from rlif.answers.extract import AnswerStyle
from rlif.errors import UserError
from rlif.files.directories import write_directory
from rlif.integrations.trl.fused import checked_head
from rlif.integrations.trl.rewards import as_stored, gold_answers, style_of
from rlif.models.language_model import LanguageModel
from rlif.rollouts.encode import EncodedPrompt
from rlif.scoring.scorer import Scorer
from rlif.scoring.start_model import StartModel
from rlif.training.distributed import broadcast
from rlif.training.evidence import GOLD
from rlif.training.guard import CONSENSUS_GENERATIONS, Guard
from rlif.training.held_out import check_labelled
from rlif.training.learner import Models
from rlif.training.run_dir import BEST, READING_FILE, best_reading
from rlif.training.validation import ValidationOptions, evaluate, majority_answers

logger = logging.getLogger(__name__)

PREFIX = "guard/"
ANSWER_COLUMN = "answer"
GUARD_HINT = "the guard cannot watch such a model"


class GuardCallback(TrainerCallback):
    """Evaluates the policy on held-out prompts, keeps the best in `output_dir/best`, and ends a run that only falls.

        trainer.add_callback(GuardCallback(trainer, held_out))

    The start model is asked for its majority answers before training: it is the trainer's reference model, the model
    without its adapter (or with TRL's adapter `ref`), or else a copy that the callback keeps. Every evaluation is a row
    of `trainer.state.log_history` whose names begin with `guard/`, from which a resumed run takes up the thread.
    Training draws the same random numbers with and without.

    Attributes:
        guard: what it has seen so far, see `rlif.training.guard.Guard`.
        warning: what the guard said when the policy began to fall; None until then.
    """

    def __init__(
        self,
        trainer: Any,
        prompts: Iterable[Mapping[str, Any]],
        *,
        action: Literal["stop", "warn"] = "stop",
        eval_steps: int = 10,
        patience: int = 3,
        num_generations: int = 4,
        answer_column: str = ANSWER_COLUMN,
        answer_style: AnswerStyle | None = None,
        labels: Literal["majority", "gold"] = "majority",
    ) -> None:
        """
        Args:
            trainer: a GRPOTrainer, not yet training: its model is the start model.
            prompts: rows with `prompt`, such as a dataset; held out from training, a hundred or so. Gold answers are
                reported, as `guard/accuracy`.
            action: "stop" ends the run after `patience` and gives the model the best weights at the end; "warn" only
                says so, which is right for rewards that have labels where the guard has none.
            eval_steps: optimizer steps from one evaluation to the next.
            patience: evaluations in a row significantly below the best.
            num_generations: completions sampled of each prompt, at `args.temperature`.
            answer_column: of the prompts, with the gold answers.
            answer_style: where the answers of completions are looked for, "strict" or "lenient". None: lenient if
                prompts are conversations.
            labels: what completions are compared with: "majority", the start model's majority answers, or "gold", the
                gold answers, which rewards that have labels may teach against the start model's.

        Raises:
            UserError: no prompts, gold answers to fewer than half of them where `labels` is "gold", a column of theirs
                that is missing or of another type, which it names, a number below 1, or a trainer or model that the
                guard cannot evaluate.
        """
        if action not in ("stop", "warn"):
            raise UserError(f"action: got {action!r}, expected 'stop' or 'warn'")
        if labels not in ("majority", "gold"):
            raise UserError(f"labels: got {labels!r}, expected 'majority' or 'gold'")
        for name, value in (("eval_steps", eval_steps), ("patience", patience), ("num_generations", num_generations)):
            if value < 1:
                raise UserError(f"{name}: got {value!r}, expected at least 1")
        if not isinstance(trainer, GRPOTrainer):
            raise UserError(f"trainer: got {type(trainer).__name__}, expected a GRPOTrainer")
        if is_peft_model(trainer.model) and trainer.model.active_peft_config.is_prompt_learning:
            raise UserError(
                "trainer: got an adapter of virtual tokens, which the guard's samples would lack; expected LoRA or none"
            )
        if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            raise UserError("trainer: got FSDP or DeepSpeed, expected one process, or DDP")
        if trainer.args.cast_lm_head_to_fp32:
            raise UserError("cast_lm_head_to_fp32: got True, expected False where the guard evaluates the model")
        self.trainer, self.action, self.eval_steps = trainer, action, eval_steps
        self.guard = Guard(patience)
        self.answer_style = answer_style
        self.warning: str | None = None
        self.directory = Path(trainer.args.output_dir) / BEST
        self.prompts = self._encoded(prompts, answer_column)
        self.labels = labels
        if labels == "gold":
            check_labelled(self.prompts, answer_column, argument="labels")
        self.consensus: list[str | None] = []
        # As many completions at a time as one process samples in training, in whole groups: each evaluates all prompts.
        groups = trainer.args.generation_batch_size // trainer.accelerator.num_processes // num_generations
        self.options = ValidationOptions(
            num_generations=num_generations,
            max_completion_length=trainer.args.max_completion_length,
            temperature=trainer.args.temperature,
            completions_per_batch=max(1, groups) * num_generations,
        )
        policy = self._language_model(trainer.model)
        self.models = Models(policy, _scorer(policy.model), self._start_model(policy.model))

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ask the start model, or recall what an interrupted run has seen."""
        start_model = self.models.start_model
        assert start_model is not None
        self.guard, self.warning = Guard(self.guard.patience), None  # what it has seen of this run is in its log
        with self._evaluating(), start_model.within():
            start = self._language_model(start_model.scorer.get_submodule("model"))
            self.consensus = majority_answers(start, self.prompts, self.options, CONSENSUS_GENERATIONS)
        for row in state.log_history:
            metrics = {name.removeprefix(PREFIX): value for name, value in row.items() if name.startswith(PREFIX)}
            if metrics:
                self.guard.observe(row["step"], metrics)
        if self.guard.readings:
            self._check_labels()
            best = self.guard.best
            self.guard.best = broadcast(self.trainer.accelerator, best_reading(self.directory.parent))
            if self.guard.best is None and best is not None:
                self._say(
                    f"the guard found no whole policy in {self.directory}, where that of step {best.step} was: the "
                    "next one that it evaluates will be the best so far"
                )
        else:
            self._watch(state)

    def _check_labels(self) -> None:
        """A resumed run goes on by the labels that it began with."""
        before = "gold" if GOLD.prompts in self.guard.start else "majority"
        if self.labels != before:
            raise UserError(f"labels: got {self.labels!r}, but the run that is resumed was guarded by {before!r}")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Evaluate, where it is time to, and stop where it is time to."""
        if state.global_step % self.eval_steps == 0 or state.global_step == state.max_steps:
            self._watch(state)
        if self.action == "stop" and self.guard.should_stop:
            control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Give the model the weights of the best policy, if it is another than the last."""
        best = self.guard.best
        if self.action != "stop" or best is None or best.step == state.global_step:
            return
        self.trainer.accelerator.wait_for_everyone()
        state.best_model_checkpoint = str(self.directory)
        self.trainer._load_best_model()
        self._say(f"the guard has given the model the weights of step {best.step}, from {self.directory}")

    def _watch(self, state: Any) -> None:
        with self._evaluating():
            metrics = evaluate(
                self.models,
                self.trainer.accelerator,
                self.options,
                self.prompts,
                self.consensus,
                by_gold=self.labels == "gold",
            ).metrics
        # Decisions that all processes take must rest on the same numbers, to the last bit.
        metrics = broadcast(self.trainer.accelerator, metrics)
        alarm = self.guard.observe(state.global_step, metrics)
        if len(self.guard.readings) == 1 and (fallback := self.guard.fallback(self.prompts[0].answer_style)):
            self._say(fallback)
        if self.guard.collapse is self.guard.readings[-1]:
            self._say(str(self.guard.collapse_words()))
        if self.guard.best is self.guard.readings[-1]:
            self._save_best()
        # GRPOTrainer's own would move the metrics of the step under way into this row, and logging takes back the wish
        # that the step be logged.
        should_log = self.trainer.control.should_log
        Trainer.log(self.trainer, {PREFIX + name: value for name, value in metrics.items()})
        self.trainer.control.should_log = should_log
        if alarm is not None:
            self.warning = alarm
            self._say(alarm)

    def _say(self, message: str) -> None:
        if self.trainer.accelerator.is_main_process:
            logger.warning("%s", message)

    def _save_best(self) -> None:
        def write(directory: Path) -> None:
            self.trainer.save_model(str(directory), _internal_call=True)  # else it would go to the hub as well
            assert self.guard.best is not None
            (directory / READING_FILE).write_text(json.dumps(dataclasses.asdict(self.guard.best)) + "\n")

        if self.trainer.accelerator.is_main_process:
            write_directory(self.directory, write, argument="output_dir")

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        model = self.trainer.model
        training = model.training
        model.eval()
        try:
            with self.trainer.accelerator.autocast():
                yield
        finally:
            model.train(training)

    def _encoded(self, held_out: Iterable[Mapping[str, Any]], answer_column: str) -> list[EncodedPrompt]:
        rows = list(held_out)
        if not rows:
            raise UserError("prompts: got none, expected at least one held-out prompt")
        for row in rows:
            _check_row(row)
        if answer_column != ANSWER_COLUMN and not any(answer_column in row for row in rows):
            raise UserError(
                f"answer_column: got {answer_column!r}, expected a column of the prompts, which have "
                f"{', '.join(rows[0])}"
            )
        prompts = [row["prompt"] for row in rows]
        ids, images, _ = self.trainer._tokenize_prompts(prompts)
        if images is not None:
            raise UserError("prompt: got images, expected text")
        golds = as_stored([row.get(answer_column) for row in rows], held_out, answer_column)
        answers = gold_answers(golds, f"{answer_column}, row {{}} of the prompts")
        style = self.answer_style or style_of(prompts)
        return [
            EncodedPrompt(str(prompt), answer, each, style)
            for prompt, answer, each in zip(prompts, answers, ids, strict=True)
        ]

    def _language_model(self, model: Any) -> LanguageModel:
        trainer = self.trainer
        model = trainer.accelerator.unwrap_model(model)
        base = model.get_base_model() if is_peft_model(model) else model
        return LanguageModel(base, trainer._tokenizer, tuple(trainer.eos_token_ids), trainer._tokenizer.pad_token_id)

    def _start_model(self, policy: PreTrainedModel) -> StartModel:
        trainer = self.trainer
        if is_peft_model(trainer.model):
            adapter = "ref" if "ref" in trainer.model.peft_config else None
            within = partial(use_adapter, trainer.model, adapter)
            if adapter is None and not self._same_model(within):
                raise UserError(
                    "trainer: got a model whose adapter was trained before, and nothing that remembers it; expected "
                    "beta > 0, with which TRL keeps a copy of the adapter"
                )
            return StartModel(_scorer(policy), within)
        if trainer.ref_model is not None and not trainer.args.sync_ref_model:
            return StartModel(_scorer(self._language_model(trainer.ref_model).model))
        frozen = copy.deepcopy(policy).requires_grad_(False).eval()
        vars(frozen).pop("forward", None)  # what TRL and rlif put there leads to the policy
        return StartModel(_scorer(frozen))

    @torch.no_grad()
    def _same_model(self, within: Callable[[], AbstractContextManager[None]]) -> bool:
        """Tell whether the policy is the same within: whether its adapter does nothing yet."""
        ids = torch.tensor([self.prompts[0].ids], device=self.trainer.accelerator.device)
        with self._evaluating():
            policy = self.trainer.model(input_ids=ids).logits
            with within():
                return torch.equal(policy, self.trainer.model(input_ids=ids).logits)


def _check_row(row: Any) -> None:
    """Check that a held-out row is one, and its prompt text or a conversation."""
    if not isinstance(row, Mapping):
        raise UserError(f"prompts: got {row!r}, expected rows with a column prompt, such as a dataset's")
    if "prompt" not in row:
        raise UserError(f"prompts: got a row with the columns {', '.join(map(str, row))}, expected one named prompt")
    if not isinstance(row["prompt"], str | list):
        raise UserError(f"prompt: got {row['prompt']!r}, expected text or a conversation")
    for column in ("image", "images"):
        if row.get(column) is not None:
            raise UserError(f"{column}: got images beside a prompt, expected prompts of text alone")


def _scorer(model: PreTrainedModel) -> Scorer:
    return Scorer(model, checked_head(model, GUARD_HINT))

"""Check, load and make everything that a run needs before the first forward that takes long."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

from rlif.data.prompts import Prompt, answer_style_of, read_with_options
from rlif.errors import UserError
from rlif.files.fingerprint import fingerprint
from rlif.files.jsonl import Row
from rlif.files.lock import Lock
from rlif.interrupts import without_interrupts
from rlif.models.language_model import load_with_options
from rlif.rewards import load_rewards
from rlif.rollouts.decoding_check import check_decoding
from rlif.rollouts.encode import EncodedPrompt, encode_prompts
from rlif.rollouts.paged import check_paged
from rlif.rollouts.verification import make_verifier
from rlif.training.checkpoint import RunState, data_fingerprint, model_fingerprint, newest_intact
from rlif.training.distributed import broadcast, make_accelerator, on_first
from rlif.training.evidence import GOLD
from rlif.training.guard import CONSENSUS_GENERATIONS, Guard, Reading
from rlif.training.held_out import check_labelled, held_out
from rlif.training.learner import Learner, make_learner
from rlif.training.options import TrainConfig
from rlif.training.progress import Progress, SilentProgress, default_progress
from rlif.training.run_dir import CONSENSUS_FILE, EVALUATION_FILE, RunDir, best_reading, resolve_run_dir, unfinished_row
from rlif.training.trackers import check_trackers, report, start_trackers
from rlif.training.validation import Validation, ValidationOptions, evaluate, majority_answers


@dataclass
class Run:
    """A run that is ready to begin, or to go on."""

    learner: Learner
    train_set: list[EncodedPrompt]
    eval_set: list[EncodedPrompt]
    validation: ValidationOptions
    path: Path
    directory: RunDir | None
    """Where to write; None on all processes but the first."""
    progress: Progress
    state: RunState
    rows: list[dict[str, float]]
    """Those of metrics.jsonl so far."""
    guard: Guard | None
    unfinished: dict[str, float] | None = None
    """The metrics of the last step, which only lack the evaluation after it; None where nothing is lacking."""
    consensus: list[str | None] | None = None
    """The start model's majority answers to the first evaluation prompts, for the guard, once it was asked."""
    stop_at_collapse: bool = False
    """Whether the run ends where the guard finds that the policy has collapsed."""
    lock: ExitStack = field(default_factory=ExitStack)
    """Keeps other processes out of the directory until it is closed."""

    def log_samples(self, step: int, samples: list[Row]) -> None:
        """Record completions of a step, which may still be evaluated."""
        if self.directory:
            self.directory.log_samples({"step": step, **sample} for sample in samples)

    def log(self, row: dict[str, float], samples: list[Row], logged: Sequence[Row] = ()) -> None:
        """Record the metrics of a step, and completions of it beside those that are logged; it is finished then."""
        shown = [*samples, *logged]
        self.progress.report(row, str(shown[0]["prompt"]) + str(shown[0]["completion"]) if shown else None)
        report(self.learner.accelerator, row, shown)
        with without_interrupts():
            self.rows.append(row)
            self.unfinished = None
            if self.directory:
                self.directory.log_metrics(row)
                self.log_samples(int(row["step"]), samples)
                if row["step"] > 0:  # until then a run that is stopped has no checkpoint, and begins with it
                    self.directory.remove_part(EVALUATION_FILE)

    def finish_step(self, step: int, metrics: dict[str, float]) -> dict[str, float]:
        """Count a step, which may still be evaluated, and return its metrics with the sums over the run."""
        self.state.step = step
        self.state.skipped_updates += int(metrics["skipped_updates"])
        metrics = metrics | {"skipped_updates": self.state.skipped_updates}
        self.unfinished = {"step": step} | metrics
        return metrics

    def ask_start_model(self) -> None:
        """Ask the start model for its majority answers, for the guard if there is one; goes on where it was stopped."""
        if self.guard is None:
            return
        config, prompts = self.learner.config, self.eval_set[: self.learner.config.guard_prompts]
        work = {
            "model": self.state.model_fingerprint,
            "prompts": data_fingerprint(prompts),
            "num_generations": CONSENSUS_GENERATIONS,
            "max_completion_length": config.max_completion_length,
            "temperature": config.eval_temperature or 1.0,
            "answer_style": config.answer_style,
        }
        done, keep = self._parts(CONSENSUS_FILE, work)
        title = "Asking the start model for its majority answers"
        with (
            self.progress.before(title, "prompts", len(prompts), len(done)) as move,
            self.learner.as_start_model() as start,
        ):
            self.consensus = majority_answers(
                start, prompts, self.validation, CONSENSUS_GENERATIONS, done=done, keep=keep, move=move
            )

    def evaluate(self, step: int) -> Validation:
        """Evaluate the policy after a step; goes on where it was stopped."""
        work = {
            "model": self.state.model_fingerprint,
            "step": step,
            "prompts": self.state.eval_data_fingerprint,
            "options": asdict(self.validation),
        }
        done, keep = self._parts(EVALUATION_FILE, work | {"consensus": fingerprint([self.consensus])})
        models, accelerator = self.learner.models, self.learner.accelerator
        validation, prompts, by_gold = self.validation, self.eval_set, self.by_gold
        return evaluate(models, accelerator, validation, prompts, self.consensus, by_gold=by_gold, done=done, keep=keep)

    def _parts(self, name: str, work: Mapping[str, object]) -> tuple[list[Row], Callable[[list[Row]], None]]:
        """What of this work is in its file, and what adds to that; the first process alone has the file."""
        file = on_first(self.learner.accelerator, lambda: self.directory.part(name, work) if self.directory else None)
        rows = broadcast(self.learner.accelerator, list(file.rows) if file else [])
        return rows, file.append if file else lambda more: None

    def watch(self, step: int, metrics: dict[str, float]) -> tuple[dict[str, float], str | None]:
        """Show an evaluation to the guard, and keep the policy if it is the best so far.

        Returns:
            What the guard adds to the metrics, and its warning if it has one.
        """
        if self.guard is None:
            return {}, None
        # Decisions that all processes take must rest on the same numbers, to the last bit.
        warning = self.guard.observe(step, broadcast(self.learner.accelerator, metrics))
        if len(self.guard.readings) == 1 and (fallback := self.guard.fallback(self.eval_set[0].answer_style)):
            self.progress.warn(fallback)
        if self.guard.collapse is self.guard.readings[-1]:
            self.progress.warn(str(self.guard.collapse_words()))
        best = self.guard.best
        if best is self.guard.readings[-1]:
            write = self.learner.writer(with_optimizer=False)
            if self.directory:
                self.directory.save_best(write, best)
        found = {"guard/falling": float(self.guard.falling)}
        if best is not None:
            found["guard/best_step"] = float(best.step)
        if self.guard.collapse is not None:
            found["guard/collapse_step"] = float(self.guard.collapse.step)
        return found, warning

    @property
    def keeps_best(self) -> bool:
        """Whether the guard decides when the run ends and which policy is its model.

        What a run learns from gold answers may contradict the start model, and then is no fall.
        """
        if self.guard is None or self.learner.config.guard != "stop":
            return False
        return not self.learner.learns_from_gold or self.guard.evidence is GOLD

    @property
    def by_gold(self) -> bool:
        """Whether there is a guard that goes by gold answers, if enough held-out prompts have one."""
        if self.guard is None:
            return False
        if self.guard.start:
            return GOLD.prompts in self.guard.start  # as the run began
        labels = self.learner.config.guard_labels
        return labels == "gold" or (labels == "auto" and self.learner.learns_from_gold)

    @property
    def should_stop(self) -> bool:
        """Whether the guard decides, and has decided that the run ends; or this is a run up to its collapse."""
        if self.guard is None:
            return False
        collapsed = self.stop_at_collapse and self.guard.collapse is not None
        return collapsed or (self.keeps_best and self.guard.should_stop)

    def save_checkpoint(self) -> None:
        """Save everything that the run needs to continue after the last step."""
        write = self.learner.writer(with_optimizer=True)
        if self.learner.config.use_adaptive_entropy:
            entropy = self.learner.entropy
            self.state.entropy_coef, self.state.last_entropy = entropy.coef, entropy.last_entropy
        if self.directory:
            self.directory.save_checkpoint(write, self.state, self.learner.config.save_total_limit, self.unfinished)

    def save_model(self, name: str = "model") -> Path:
        """Save the model as it is, for others to use."""
        write = self.learner.writer(with_optimizer=False)
        return self.directory.save_model(write, name) if self.directory else self.path

    def save_result(self) -> None:
        """Save what the run has come to: the last policy, or the best if the guard decides and it is another."""
        best = self.guard.best if self.guard and self.keeps_best else None
        if best is None or best.step == self.state.step:
            self.save_model()
            if self.directory:
                self.directory.remove_model("last")  # of an earlier end of this run, which has gone on since
            return
        self.save_model("last")
        if self.directory:
            self.directory.save_model(self.directory.copy_best)

    def close(self) -> None:
        """The run is over, finished or not."""
        self.lock.close()
        self.progress.stop()


def prepare(config: TrainConfig, progress: Progress | None) -> Run:
    """Check everything, load everything, and make or reopen the run directory, in this order as far as possible.

    Raises:
        UserError: bad input; nothing has been written then.
    """
    with ExitStack() as lock:
        run = _prepare(config, progress, lock)
        run.lock = lock.pop_all()
    return run


def _prepare(config: TrainConfig, progress: Progress | None, unlock: ExitStack) -> Run:
    """Do as `prepare` says; `unlock` gets what lets others into the directory again."""
    config.validate()
    rewards = load_rewards(config.reward, aggregation=config.multi_objective_aggregation, seed=config.seed)
    check_trackers(config.report_to)
    prompts = read_with_options(config, config.data, config.split, need_answers=rewards.needs_answers)
    if config.verify and config.verify_labels == "gold":
        check_labels(config, prompts)
    eval_prompts: list[Prompt] = []
    if config.eval_data:
        eval_prompts = read_with_options(config, config.eval_data, config.eval_split, argument="eval_data")

    if config.answer_style is None:
        style = answer_style_of([*prompts, *eval_prompts], chat=config.chat, system_prompt=config.system_prompt)
        config = replace(config, answer_style=style)

    # Found before the processes meet: once they have, the first of them may make the directory.
    path = resolve_run_dir(config)
    accelerator = make_accelerator(config.device, config.report_to, path)
    path = broadcast(accelerator, path)  # names with the time in them may differ
    if config.prompts_per_step < accelerator.num_processes:
        raise UserError(
            f"prompts_per_step: got {config.prompts_per_step}, expected at least one for each of the "
            f"{accelerator.num_processes} processes"
        )
    lock = on_first(accelerator, lambda: unlock.enter_context(Lock(path)))
    checkpoint = newest_intact(path) if config.resume else None
    if config.resume and checkpoint is None and (path / "model").exists():
        raise UserError(
            f"resume: {path} has no checkpoint to continue from (see save_steps), and beginning again would overwrite "
            f"its model; expected a new run, perhaps one that starts from {path / 'model'}"
        )

    start = load_with_options(config, config.model, device=str(accelerator.device))
    encode = partial(
        encode_prompts,
        start,
        max_completion_length=config.max_completion_length,
        chat=config.chat,
        system_prompt=config.system_prompt,
        answer_style=config.answer_style,
    )
    train_set, eval_set = encode(prompts), encode(eval_prompts, argument="eval_data")
    if config.guard != "off" and not eval_set:
        train_set, eval_set = held_out(train_set, config.guard_prompts, config.seed)
    if config.guard != "off" and config.guard_labels == "gold":
        check_labelled(eval_set, config.answer_column, argument="guard_labels", hint=", or guard_labels majority")
    verifier = make_verifier(start, config, train_set) if config.verify else None
    check_decoding(start, train_set[0].ids)
    if config.use_transformers_continuous_batching:
        check_paged(start, train_set[0].ids)
    state = RunState(
        data_fingerprint(train_set), model_fingerprint(start.model), eval_data_fingerprint=data_fingerprint(eval_set)
    )
    if checkpoint is not None:
        state = _resumed(state, checkpoint, guarded=config.guard != "off")
    guarded = config.guard != "off"
    need_start_model = config.beta > 0 or bool(eval_set)
    learner = make_learner(
        config, accelerator, start, rewards, need_start_model=need_start_model, checkpoint=checkpoint, verifier=verifier
    )

    if config.use_adaptive_entropy and state.entropy_coef is not None:
        learner.entropy.coef, learner.entropy.last_entropy = state.entropy_coef, state.last_entropy

    is_main = accelerator.is_main_process
    directory = on_first(accelerator, lambda: RunDir(path, config, lock or Lock(path), state))
    start_trackers(accelerator, config)
    rows = broadcast(accelerator, directory.read_metrics() if directory else [])
    unfinished = unfinished_row(checkpoint, state.step) if checkpoint else None
    if directory and unfinished is None and state.step > 0:
        directory.remove_part(EVALUATION_FILE)  # of a later step, which comes again, and may come to other bits
    return Run(
        learner=learner,
        train_set=train_set,
        eval_set=eval_set,
        validation=validation_options(config),
        path=path,
        directory=directory,
        progress=(progress or default_progress()) if is_main else SilentProgress(),
        state=state,
        rows=rows,
        guard=_guard_of(config, rows, broadcast(accelerator, best_reading(path))) if guarded else None,
        unfinished=unfinished,
    )


def check_labels(config: TrainConfig, prompts: Sequence[Prompt]) -> None:
    """Check that every completion can be told to be right or wrong, where gold answers tell it.

    Raises:
        UserError: a prompt has none.
    """
    missing = next((prompt for prompt in prompts if prompt.answer is None), None)
    if missing is not None:
        raise UserError(
            f"verify_labels: got 'gold', but data: {config.data}, {missing.where} has no `{config.answer_column}`; "
            "expected a gold answer to every prompt, or verify_labels majority"
        )


def validation_options(config: TrainConfig) -> ValidationOptions:
    """Read off a run's configuration how held-out prompts are sampled: as many completions at a time as in a step."""
    return ValidationOptions(
        num_generations=config.eval_generations,
        max_completion_length=config.max_completion_length,
        temperature=config.eval_temperature,
        completions_per_batch=config.prompts_per_step * config.num_generations,
        max_tokens_per_forward=config.max_tokens_per_forward,
    )


def _guard_of(config: TrainConfig, rows: list[dict[str, float]], saved: Reading | None) -> Guard:
    """Make a guard that has seen the evaluations so far, and takes for the best what OUTPUT_DIR/best holds."""
    guard = Guard.of_rows(rows, config.guard_patience)
    if guard.readings and config.guard_labels == "gold" and guard.evidence is not GOLD:
        raise UserError(
            "guard_labels: got 'gold', but the guard of the run that is resumed has gone by the start model so far; "
            "expected guard_labels as the run began, or a new run"
        )
    if rows:
        # It may be of a later step than the checkpoint, which the run was at before it was interrupted.
        guard.best = saved
    return guard


def _resumed(state: RunState, checkpoint: Path, *, guarded: bool) -> RunState:
    """Load the state of a run that continues from a checkpoint, if prompts and start model are as it began with.

    So must the evaluation prompts be if it is guarded: the guard compares evaluations, which must be of the same.
    """
    saved = RunState.load(checkpoint)
    if not guarded or saved.eval_data_fingerprint is None:  # a checkpoint from before the guard has none
        saved.eval_data_fingerprint = state.eval_data_fingerprint
    for argument in ("data", "model", "eval_data"):
        if getattr(saved, f"{argument}_fingerprint") != getattr(state, f"{argument}_fingerprint"):
            raise UserError(
                f"resume: {argument} has changed since the run in {checkpoint.parent} began; expected the same, or "
                f"a new run that starts from {checkpoint}"
            )
    return saved

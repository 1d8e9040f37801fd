"""A run that was stopped, killed or broken goes on as if nothing had been: bit for bit the same weights and metrics."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from hurt import HOSTILE_VALUES, rewrite
from rlif.errors import UserError
from rlif.files.directories import damage
from rlif.files.jsonl import read_metrics
from rlif.models.master_weights import MasterWeightsAdamW
from rlif.training import loop as trainer
from rlif.training import penalty
from rlif.training import setup as prepare
from rlif.training.checkpoint import RunState, checkpoints, load_optimizer, optimizer_tensors, save_optimizer
from rlif.training.guard import Guard
from rlif.training.options import TrainConfig
from rlif.training.progress import SilentProgress
from rlif.training.run_dir import best_reading
from runs import MakeConfig, assert_same_runs, train, weights
from tiny_models import files_of_at_most, make_model


def stop_in(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send SIGTERM in that step, before its first weight has changed, as a scheduler would."""
    update = trainer.update

    def stop(learner: object, rollout: object, at: int, *more: object) -> dict[str, float]:
        if at == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return update(learner, rollout, at, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(trainer, "update", stop)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_iterations": 2, "mask_truncated_completions": True, "kl_estimator": "full"},
        {"lora_rank": 4, "lora_modules_to_save": ("lm_head",)},
        {"lora_rank": 4, "dtype": "bfloat16", "learning_rate": 3e-6, "num_iterations": 2},
        {"dtype": "bfloat16", "learning_rate": 3e-6, "logits_dtype": "float32"},
        {"reward": ("random", "self_certainty=0.5"), "weight_decay": 0.1, "evaluates": True},
        {
            "verify": True,
            "verify_template": "{prompt}{completion}\n=",
            "verify_ratings": ("1", "2", "3"),
            "verify_share": 1.0,
            "verify_labels": "majority",
            "answer_style": "lenient",
            "max_completion_length": 12,
        },
        {"use_adaptive_entropy": True, "entropy_target": 1.8, "entropy_coef_delta": 0.1, "reward": ("random",)},
    ],
)
def test_a_stopped_run_goes_on_to_the_same_bits(
    changes: dict[str, object], make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluates = changes.pop("evaluates", False)
    config = make_config(max_steps=5, eval_steps=2, **changes)
    config = replace(config, eval_data=config.data if evaluates else None)
    whole = replace(config, output_dir=tmp_path / "whole")
    train(whole)
    with monkeypatch.context() as patch:
        stop_in(3, patch)
        with pytest.raises(KeyboardInterrupt, match="stopped after step 2; --resume continues"):
            train(config)
    assert [path.name for path in checkpoints(config.output_dir)] == ["checkpoint-2"]
    result = train(replace(config, resume=True))
    assert [row["step"] for row in result.rows] == ([0] if evaluates else []) + [1, 2, 3, 4, 5]
    assert_same_runs(whole.output_dir, config.output_dir)


def test_steps_without_a_finite_update_are_counted_on(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    loss = penalty.policy_loss

    def spoil(*args: object, **settings: object) -> object:
        result = loss(*args, **settings)  # type: ignore[arg-type]
        return result._replace(loss=math.nan * result.loss)

    monkeypatch.setattr(penalty, "policy_loss", spoil)
    config = make_config(max_steps=10)
    with monkeypatch.context() as patch:
        stop_in(3, patch)
        with pytest.raises(KeyboardInterrupt, match="stopped after step 2; --resume continues"):
            train(config)
    with pytest.raises(UserError, match="3 steps in a row had no finite update"):
        train(replace(config, resume=True))
    rows = read_metrics(config.output_dir / "metrics.jsonl", argument="")
    assert [row["skipped_updates"] for row in rows] == [1, 2, 3]


@pytest.mark.parametrize(
    ("totals", "count"), [([], 0), ([2], 1), ([0, 2, 4], 2), ([2, 4, 4], 0), ([2, 3, 5], 1), ([2, 2, 3], 0)]
)
def test_bad_steps_are_those_all_of_whose_updates_were_skipped(totals: list[float], count: int) -> None:
    rows = [
        {"step": 0, "eval/kl": 0.0},
        *({"step": 1 + number, "skipped_updates": each} for number, each in enumerate(totals)),
    ]
    assert trainer.count_bad_steps(rows, num_iterations=2) == count


def test_after_a_kill_the_best_step_is_that_of_the_policy_in_best(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores, killed = [0.2, 0.4, 0.3, 0.6, 0.5], tmp_path / "killed"
    observe, log = Guard.observe, prepare.Run.log

    def observe_scores(guard: Guard, step: int, metrics: dict[str, float]) -> str | None:
        made_up = {"consensus": scores[step], "consensus_prompts": 1.0, "num_compared": 1000.0}
        return observe(guard, step, metrics | made_up)

    def log_and_leave(run: prepare.Run, row: dict[str, float], *samples: list[dict[str, object]]) -> None:
        if row["step"] == 3:  # evaluated and the best, but there is no row of it yet, and no checkpoint
            shutil.copytree(run.path, killed, ignore=shutil.ignore_patterns("checkpoint-2"))
        log(run, row, *samples)

    monkeypatch.setattr(Guard, "observe", observe_scores)
    config = make_config(max_steps=4, eval_steps=1, save_steps=1, guard="warn", learning_rate=1e-5)
    config = replace(config, eval_data=config.data)
    with monkeypatch.context() as patch:
        patch.setattr(prepare.Run, "log", log_and_leave)
        whole = train(config)
    resumed = train(replace(config, output_dir=killed, resume=True))
    assert [row["guard/best_step"] for row in whole.rows] == [0, 1, 1, 3, 3]
    # After step 2 it is not the best so far, but what best/ has, which is not given up for a worse one.
    assert [row["guard/best_step"] for row in resumed.rows] == [0, 1, 3, 3, 3]
    assert best_reading(killed) == best_reading(config.output_dir)
    best, expected = weights(killed / "best"), weights(config.output_dir / "best")
    assert all(torch.equal(best[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("weights", "master", "is_kept"),
    [
        (torch.bfloat16, torch.float32, True),
        (torch.bfloat16, None, True),  # of a version without master weights
        (torch.bfloat16, torch.bfloat16, False),
        (torch.float32, torch.float32, False),
    ],
)
def test_a_master_weight_is_read_where_the_optimizer_keeps_one(
    weights: torch.dtype, master: torch.dtype | None, is_kept: bool, tmp_path: Path
) -> None:
    model = torch.nn.Linear(2, 3, bias=False, dtype=weights)
    kept = {"weight.step": torch.ones(())} | {f"weight.{name}": torch.ones(3, 2) for name in ("exp_avg", "exp_avg_sq")}
    if master is not None:
        kept["weight.master"] = torch.full((3, 2), 0.1, dtype=master)
    save_optimizer(kept, tmp_path)
    optimizer = MasterWeightsAdamW(model.parameters())
    if is_kept:
        load_optimizer(model, optimizer, tmp_path)
        assert optimizer_tensors(model, optimizer).keys() == kept.keys()
    else:
        with pytest.raises(UserError, match=r"^resume: .* has weight\.master .*, which AdamW does not keep"):
            load_optimizer(model, optimizer, tmp_path)


@pytest.fixture
def stopped(make_config: MakeConfig) -> TrainConfig:
    """A run of four steps with a checkpoint after each, of which two more are wanted."""
    config = make_config(max_steps=4, save_steps=1)
    train(config)
    return replace(config, max_steps=6, resume=True)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("model.safetensors", "flipped"),
        ("optimizer.safetensors", "cut"),
        ("state.json", "gone"),
        ("manifest.json", "flipped"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(name: str, kind: str, stopped: TrainConfig) -> None:
    newest = stopped.output_dir / "checkpoint-4"
    content = bytearray((newest / name).read_bytes())
    if kind == "gone":
        (newest / name).unlink()
    else:
        content[len(content) // 2] ^= 1
        (newest / name).write_bytes(content if kind == "flipped" else content[: len(content) // 2])
    # A flipped bit of the manifest may be in the checksum of another file.
    named = r"\S+" if (name, kind) == ("manifest.json", "flipped") else name
    with pytest.warns(UserWarning, match=f"passed over a damaged checkpoint.*checkpoint-4: {named}"):
        result = train(stopped)
    assert [row["step"] for row in result.rows] == [1, 2, 3, 4, 5, 6]
    assert (stopped.output_dir / "checkpoint-4" / name).exists()  # written again


def test_when_every_checkpoint_is_damaged_the_error_names_each(stopped: TrainConfig) -> None:
    for path in checkpoints(stopped.output_dir):
        (path / "state.json").write_text("{}")
    with pytest.raises(UserError, match=r"resume: every checkpoint is damaged: .*checkpoint-4: .*checkpoint-1: "):
        train(stopped)


def test_a_full_disk_is_an_error_that_leaves_the_last_checkpoint_to_resume_from(
    stopped: TrainConfig, tmp_path: Path
) -> None:
    whole = replace(stopped, output_dir=tmp_path / "whole", resume=False)
    shutil.copytree(stopped.output_dir, whole.output_dir)
    train(replace(whole, resume=True))
    with (
        files_of_at_most(60_000),  # more than the logs have, and less than the weights
        pytest.raises(UserError, match=r"cannot save .*checkpoint-5: .*File too large") as error,
    ):
        train(stopped)
    assert str(error.value).endswith("the newest checkpoint is checkpoint-4)")
    assert checkpoints(stopped.output_dir)[0].name == "checkpoint-4"
    train(stopped)
    assert_same_runs(whole.output_dir, stopped.output_dir)


def test_only_the_newest_checkpoints_are_kept(make_config: MakeConfig) -> None:
    config = make_config(max_steps=5, save_steps=1, save_total_limit=2)
    train(config)
    assert [path.name for path in checkpoints(config.output_dir)] == ["checkpoint-5", "checkpoint-4"]


def test_damaged_checkpoints_do_not_take_the_place_of_those_that_the_resumed_run_saves(stopped: TrainConfig) -> None:
    for step in (3, 4):
        (stopped.output_dir / f"checkpoint-{step}" / "model.safetensors").write_bytes(b"")
    with pytest.warns(UserWarning, match="passed over a damaged checkpoint"):
        run = prepare.prepare(replace(stopped, save_total_limit=1), SilentProgress())
    run.state.step = 3
    run.save_checkpoint()
    run.close()
    assert [path.name for path in checkpoints(stopped.output_dir)] == ["checkpoint-3"]
    assert damage(stopped.output_dir / "checkpoint-3") is None


def test_a_run_without_a_checkpoint_is_not_begun_again_over_its_model(make_config: MakeConfig) -> None:
    config = make_config()
    train(config)
    metrics = (config.output_dir / "metrics.jsonl").read_text()
    with pytest.raises(UserError, match=r"resume: .* has no checkpoint to continue from .*overwrite its model"):
        train(replace(config, resume=True, max_steps=4))
    assert (config.output_dir / "metrics.jsonl").read_text() == metrics


@pytest.mark.parametrize("name", [field.name for field in fields(RunState)])
def test_a_checkpoint_that_was_changed_and_resealed_is_one_error(name: str, stopped: TrainConfig) -> None:
    path = stopped.output_dir / "checkpoint-4" / "state.json"
    state = json.loads(path.read_text())
    # Where only the type is known: what is compared with the data, or with the length of a file, later.
    of_a_kind = ("x",) if name.endswith("fingerprint") else (None, "x") if name.endswith("sha256") else (10**30,)
    right = {
        "step": (),
        "eval_data_fingerprint": (None, "x"),
        "entropy_coef": (None, -1, 1.5, 10**30),
        "last_entropy": (None, 1.5, 10**30),
    }.get(name, of_a_kind)
    for value in HOSTILE_VALUES:
        if value not in right:
            rewrite(path, json.dumps(state | {name: value}))
            with pytest.raises(UserError, match=rf"^resume: .*state\.json: {name}: got "):
                RunState.load(path.parent)
    for text in ("[]", "3", "{}", "null", "[" * 3000, json.dumps(state | {"more": 1})):
        rewrite(path, text)
        with pytest.raises(UserError, match=r"^resume: .*state\.json"):
            train(stopped)


@pytest.mark.parametrize("line", ["[]", "3", '{"step": "1"}', '{"step": 1, "loss": "x"}', '{"loss": 1}', "[" * 3000])
def test_metrics_that_somebody_has_changed_are_one_error(line: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": null}\n' + line + "\n")
    with pytest.raises(UserError, match=r"^resume: .*metrics\.jsonl, (line|row) 2: "):
        read_metrics(tmp_path / "metrics.jsonl", argument="resume")


@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.jsonl"])
def test_a_log_that_has_changed_since_the_checkpoint_is_one_error_and_stays_as_it_is(
    name: str, stopped: TrainConfig
) -> None:
    path = stopped.output_dir / name
    text = path.read_text()
    path.write_text(text.replace("1", "2", 1))
    with pytest.raises(UserError, match=rf"^resume: .*{name} has changed since the checkpoint was written; expected"):
        train(stopped)
    assert path.read_text() == text.replace("1", "2", 1)


def test_metrics_that_are_gone_are_one_error(stopped: TrainConfig) -> None:
    (stopped.output_dir / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match=r"resume: .*metrics.jsonl has 0 bytes, expected the \d+ of the checkpoint"):
        train(stopped)


def test_a_run_directory_in_the_home_directory_is_found_again(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    config = make_config(output_dir=Path("~/run"), save_steps=1)
    train(config)
    assert train(replace(config, resume=True, max_steps=3)).run_dir == tmp_path / "home" / "run"


def test_a_checkpoint_holds_no_pickle(stopped: TrainConfig) -> None:
    suffixes = {path.suffix for path in (stopped.output_dir / "checkpoint-4").rglob("*")}
    assert suffixes <= {".safetensors", ".json", ".jinja", ".txt"}


def test_a_resume_with_other_prompts_is_refused(stopped: TrainConfig) -> None:
    path = Path(stopped.data)
    path.write_text(path.read_text().replace("20+", "21+"))
    with pytest.raises(UserError, match=r"^resume: data has changed since the run in .* began"):
        train(stopped)


def test_a_resume_with_another_start_model_is_refused(stopped: TrainConfig, tmp_path: Path) -> None:
    directory = tmp_path / "other"
    shutil.copytree(stopped.model, directory)
    model = make_model()
    with torch.no_grad():
        model.get_input_embeddings().weight.add_(1e-3)
    model.save_pretrained(directory)
    with pytest.raises(UserError, match=r"^resume: model has changed since the run in .* began"):
        train(replace(stopped, model=str(directory)))


@pytest.mark.parametrize(("field", "value"), [("seed", 1), ("beta", 0.5), ("reward", ("token_entropy",))])
def test_a_resume_with_another_configuration_is_refused(field: str, value: object, stopped: TrainConfig) -> None:
    with pytest.raises(UserError, match=rf"^resume: {field} is .*, but the run had .*; expected no change"):
        train(replace(stopped, **{field: value}))  # type: ignore[arg-type]


def test_there_must_be_a_run_to_resume(make_config: MakeConfig) -> None:
    with pytest.raises(UserError, match=r"output_dir: .* does not exist, expected the directory of the run to resume"):
        train(make_config(resume=True))
    with pytest.raises(
        UserError, match=r"output_dir: got none, expected .* run to resume: --output-dir DIRECTORY, which"
    ):
        train(make_config(resume=True, output_dir=None))


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again_and_keeps_what_it_had_logged(
    make_config: MakeConfig,
) -> None:
    config = make_config()
    for number in (0, 1, 2):
        run = prepare.prepare(replace(config, resume=number > 0), SilentProgress())
        run.log({"step": 1, "reward": number}, [{"prompt": "1+1=", "completion": str(number)}])
        run.close()
    result = train(replace(config, resume=True))
    assert [row["step"] for row in result.rows] == [1, 2]
    for number in (0, 1, 2):
        kept = config.output_dir / f"before-restart-{number + 1}"
        assert json.loads((kept / "metrics.jsonl").read_text()) == {"step": 1, "reward": number}
        assert json.loads((kept / "samples.jsonl").read_text())["completion"] == str(number)


@pytest.mark.parametrize("record", [None, "{}\n", "seed: 0\n"])
def test_a_directory_that_holds_no_run_is_refused_and_left_as_it_is(
    record: str | None, make_config: MakeConfig, tmp_path: Path
) -> None:
    files = {"metrics.jsonl": '{"mine": 1}\n', "samples.jsonl": "mine\n"}
    files |= {} if record is None else {"config.yaml": record}
    (tmp_path / "run").mkdir()
    for name, text in files.items():
        (tmp_path / "run" / name).write_text(text)
    with pytest.raises(UserError, match=r"^output_dir: .*(holds no run to resume|is not that of a run)$"):
        train(make_config(resume=True))
    assert {path.name: path.read_text() for path in (tmp_path / "run").iterdir()} == files

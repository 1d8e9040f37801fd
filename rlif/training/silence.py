"""Say early that completions lack what a reward goes by, which then tells none, or few, from another."""

from __future__ import annotations

from collections.abc import Sequence

from rlif.answers.advice import FEW_ANSWERED, how_to_get_answers, how_to_get_form, how_to_get_ratings
from rlif.answers.tags import has_form
from rlif.rollouts.rollout import Rollout
from rlif.training.distributed import all_reduce_max, all_reduce_sum
from rlif.training.setup import Run


def warn_of_silence(run: Run, rollout: Rollout) -> None:
    """Warn where no completion of a step, on all processes, has what a reward goes by, or few verifications a rating.

    That is an answer, of rewards that compare the answers which completions state; the form with tags, of those that
    reward the form; and a rating, of verifications.
    """
    accelerator, rewards = run.learner.accelerator, run.learner.rewards.rewards
    solutions, verifications = rollout.solutions, rollout.verifications

    def silent(found: bool) -> bool:
        return not all_reduce_max(accelerator, float(found))

    def finished(rows: Sequence[int]) -> float | None:
        """The share that ended by itself."""
        sums = {"ended": rollout.finished[list(rows)].sum().item(), "rows": len(rows)}
        total = all_reduce_sum(accelerator, sums)
        return total["ended"] / total["rows"] if total["rows"] else None

    reading = ", ".join(reward.name for reward in rewards if reward.reads_stated)
    if reading and silent(any(rollout.stated[row] for row in solutions)):
        run.progress.warn(
            f"no completion of this step states an answer, by which {reading} tells them apart: "
            f"{how_to_get_answers(rollout.answer_style, finished(solutions))}"
        )
    formal = ", ".join(reward.name for reward in rewards if reward.rewards_form and reward.weight != 0)
    if formal and silent(any(has_form(rollout.texts[row]) for row in solutions)):
        run.progress.warn(
            f"no completion of this step has the form that {formal} rewards, which so tells none from another: "
            f"{how_to_get_form(finished(solutions))}"
        )
    if (verifier := run.learner.verifier) is None:
        return
    stated = [rollout.stated[row] for row in verifications]
    rated = sum(each is not None and verifier.rating(each.text) is not None for each in stated)
    sums = all_reduce_sum(accelerator, {"rated": rated, "rows": len(verifications)})
    if not sums["rows"]:
        by = "gold answers" if run.learner.config.verify_labels == "gold" else "the majorities of their groups"
        run.progress.warn(
            "no completion of this step is verified, for which it takes a right one and one that is not, by "
            f"{by}, and room for their verifications: look at verify/prompts and verify/too_long of the next steps, "
            "and try more prompts_per_step or num_generations, and prompts that the policy answers now and then"
        )
    elif sums["rated"] < FEW_ANSWERED * sums["rows"]:
        share, advice = sums["rated"] / sums["rows"], how_to_get_ratings(finished(verifications))
        run.progress.warn(
            f"only {share:.0%} of the verifications of this step state a rating; any other answer is rewarded as a "
            f"wrong rating is: {advice}"
            if sums["rated"]
            else f"no verification of this step states a rating, by which they are told apart: {advice}"
        )

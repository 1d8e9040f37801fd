"""What columns of the head that are no tokens do to self-certainty."""

from __future__ import annotations

from rlif.models.language_model import LanguageModel
from rlif.models.vocabulary import UnusedColumns, limit_of, limited_vocabulary, unused_columns
from rlif.rollouts.rollout import Rollout
from rlif.scoring.scorer import Scorer


def look_at_columns(
    language_model: LanguageModel, scorer: Scorer, rollout: Rollout, temperature: float
) -> tuple[UnusedColumns | None, tuple[str, ...]]:
    """Find columns that are no tokens, and measure self-certainty with and without those that can be left out.

    Args:
        language_model: to look at.
        scorer: of it.
        rollout: a few completions to measure on.
        temperature: of sampling.

    Returns:
        What was found, and a sentence that says so, if there is anything to say.
    """
    found = unused_columns(language_model.model, language_model.tokenizer)
    if found is None:
        return None, ()
    kinds = {"name no token": found.unnamed, "are held in reserve": found.reserved, "repeat others": found.repeated}
    what = ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)
    said = (
        f"{found.count} of the head's {found.num_columns} columns ({found.count / found.num_columns:.1%}), such as "
        f"{found.example}, are no tokens ({what}), and count in self-certainty all the same"
    )
    tokens = rollout.completion_ids[rollout.completion_mask]
    limit = found.vocab_size
    is_limited = limit_of(language_model.model.get_output_embeddings()) is not None
    if limit is None or is_limited or len(tokens) == 0 or int(tokens.max()) >= limit:
        return found, (said,)
    whole = _self_certainty(scorer, rollout, temperature)
    with limited_vocabulary(language_model.model, limit):
        less = _self_certainty(scorer, rollout, temperature)
    change = f"{abs(less / whole - 1):.1%} {'lower' if less < whole else 'higher'}"
    return found, (
        f"{said}: --vocab-size {limit} leaves {found.num_columns - limit} out, and makes it {change}, {less:.2f} nats "
        f"a token for {whole:.2f}",
    )


def _self_certainty(scorer: Scorer, rollout: Rollout, temperature: float) -> float:
    """Average it over the tokens, in nats."""
    stats = scorer(rollout, temperature, outputs=("self_certainty",))
    return (stats.self_certainty.sum() / rollout.completion_mask.sum()).item()

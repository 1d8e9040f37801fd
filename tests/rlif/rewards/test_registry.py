"""What is wrong with the names and weights of rewards is said before any work, and without torch."""

import subprocess
import sys

import pytest

from rlif.errors import UserError
from rlif.rewards import load_rewards


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ([], "reward: got none, expected at least one of self_certainty,"),
        (["self-certainty"], "got 'self-certainty', expected one of .*; did you mean self_certainty?"),
        (["format=much"], "got the weight 'much' in 'format=much', expected a finite number"),
        (["format="], "got the weight '' in 'format=', expected a finite number"),
        (["format=nan"], "expected a finite number"),
        (["format", "random", "format=2"], "'format' is named twice"),
        (["format=0", "random=0"], "every weight is 0"),
    ],
)
def test_what_is_wrong_with_a_mixture_is_said_before_any_work(specs: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_rewards(specs)


def test_rewards_can_be_listed_without_loading_torch() -> None:
    # The command line checks the names and prints its help by them; loading torch takes seconds.
    code = (
        "import sys; from rlif.training.options import TrainConfig; "
        "TrainConfig(model='m', data='d', reward=('self_certainty', 'format=0.1')).validate(); "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

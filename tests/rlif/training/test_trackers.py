"""Metrics reach the trackers that were asked for; one that is not there is found before any work."""

import pytest

from rlif.errors import UserError
from runs import MakeConfig, train


def test_tensorboard_gets_every_metric_of_every_step(make_config: MakeConfig) -> None:
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed"
    )
    config = make_config(report_to=("tensorboard",))
    rows = train(config).rows
    events = reader.EventAccumulator(str(config.output_dir / "rlif")).Reload()
    for name in ("reward", "entropy", "loss"):
        logged = [(event.step, event.value) for event in events.Scalars(name)]
        assert logged == [(row["step"], pytest.approx(row[name], rel=1e-6)) for row in rows]  # float32 in the file


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tensorbored", r"report_to: got 'tensorbored', expected one of .*tensorboard"),
        ("comet_ml", r"report_to: got 'comet_ml', whose package is not installed"),
    ],
)
def test_a_tracker_that_is_not_there_is_refused(name: str, message: str, make_config: MakeConfig) -> None:
    config = make_config(report_to=(name,))
    with pytest.raises(UserError, match=message):
        train(config)
    assert not config.output_dir.exists()

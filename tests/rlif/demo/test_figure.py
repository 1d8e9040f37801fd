"""The figure shows every run in every panel, with its units and its best step."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from drawn_figures import kept_figures
from rlif.demo.figure import best_evaluation, plot_runs

METRICS = ("accuracy", "entropy", "completion_length", "base_nll")


def rows(accuracies: list[float]) -> list[dict[str, float]]:
    """A run evaluated at every second step."""
    result: list[dict[str, float]] = [{"step": 0, **dict.fromkeys((f"eval/{name}" for name in METRICS), accuracies[0])}]
    for index, accuracy in enumerate(accuracies[1:], start=1):
        result.append({"step": 2 * index - 1, "reward": 1.0})
        result.append({"step": 2 * index, "reward": 2.0, **{f"eval/{name}": accuracy for name in METRICS}})
    return result


RUNS = {"self_certainty": rows([0.4, 0.6, 0.1]), "verifiable": rows([0.4, 0.7, 0.9])}


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> tuple[Figure, Path]:
    """What plot_runs draws of both runs, as an object and as a file."""
    path = tmp_path_factory.mktemp("picture") / "figure.png"
    with kept_figures() as drawn:
        plot_runs(RUNS, path)
    return drawn[0], path


@pytest.fixture
def figure(picture: tuple[Figure, Path]) -> Figure:
    return picture[0]


def test_the_picture_is_a_png(picture: tuple[Figure, Path]) -> None:
    assert picture[1].read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_every_axis_is_labelled_and_every_panel_titled(figure: Figure) -> None:
    assert len(figure.axes) == 6  # five panels, and a second axis for the other reward's unit
    assert all(axes.get_ylabel() for axes in figure.axes)
    titled = [axes for axes in figure.axes if axes.get_title(loc="left")]
    assert len(titled) == 5
    assert all(axes.get_xlabel() == "training step" for axes in titled)


def test_both_runs_are_in_every_panel_with_the_values_of_the_rows(figure: Figure) -> None:
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes}
    for title in ("Held-out accuracy", "Policy entropy", "Completion length", "Base NLL (start model)"):
        curves = [list(line.get_ydata()) for line in panels[title].lines]
        assert [0.4, 0.6, 0.1] in curves
        assert [0.4, 0.7, 0.9] in curves
    rewards = [list(line.get_ydata()) for axes in figure.axes for line in axes.lines]
    assert rewards.count([1.0, 2.0, 1.0, 2.0]) == 2


def test_the_best_step_of_each_run_is_marked(figure: Figure) -> None:
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes}
    legend = panels["Held-out accuracy"].get_legend()
    assert legend is not None
    notes = [text.get_text() for text in legend.get_texts()]
    assert notes == ["self_certainty: best 60.0% at step 2", "verifiable: best 90.0% at step 4"]
    stars = [
        (*line.get_xdata(), *line.get_ydata()) for line in panels["Held-out accuracy"].lines if line.get_marker() == "*"
    ]
    assert stars == [(2, 0.6), (4, 0.9)]
    for title in ("Reward in training", "Policy entropy", "Completion length", "Base NLL (start model)"):
        marked = [list(line.get_xdata()) for line in panels[title].lines]
        assert [2, 2] in marked
        assert [4, 4] in marked


def test_the_best_evaluation_is_the_first_of_equals() -> None:
    assert best_evaluation(rows([0.1, 0.5, 0.5]))["step"] == 2


def test_rewards_of_the_same_unit_share_an_axis(tmp_path: Path, drawn: list[Figure]) -> None:
    plot_runs({"self_certainty": rows([0.1, 0.2]), "token_entropy": rows([0.1, 0.2])}, tmp_path / "figure.png")
    (figure,) = drawn
    assert len(figure.axes) == 5  # a panel each, and no second axis
    (reward,) = (axes for axes in figure.axes if axes.get_title(loc="left") == "Reward in training")
    assert reward.get_ylabel() == "self_certainty and token_entropy, nats/token"
    assert [list(line.get_ydata()) for line in reward.lines].count([1.0, 2.0]) == 2


def test_nothing_to_draw_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="runs: got none"):
        plot_runs({}, tmp_path / "figure.png")
    with pytest.raises(ValueError, match="none has eval/accuracy"):
        plot_runs({"verifiable": [{"step": 1, "reward": 0.5}]}, tmp_path / "figure.png")
    assert not (tmp_path / "figure.png").exists()

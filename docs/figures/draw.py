"""Draws the pictures of docs/architecture.md: `python docs/figures/draw.py` writes the three SVG files beside it."""

from __future__ import annotations

from html import escape
from pathlib import Path

BLUE, GREEN, ORANGE, GREY, WHITE = "#dbe7fb", "#dcf1e0", "#fdeacc", "#eceff1", "#ffffff"
INK, LINE = "#1f2933", "#52616b"


class Picture:
    """An SVG of boxes, arrows and words, drawn in the order of the calls."""

    def __init__(self, width: int, height: int) -> None:
        self.size = width, height
        self.parts: list[str] = []

    def box(self, x: float, y: float, w: float, h: float, text: str, fill: str = WHITE, small: str = "") -> None:
        """A rectangle with a bold line, and smaller lines below it."""
        self.parts.append(
            f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="6" fill="{fill}" stroke="{LINE}" stroke-width="1"/>'
        )
        below = small.split("\n") if small else []
        lines = [text, *below] if text else below
        top = y + h / 2 - 8 * (len(lines) - 1) + 5
        for number, line in enumerate(lines):
            first = number == 0 and bool(text)
            self.words(x + w / 2, top + 16 * number, line, size=14 if first else 12, bold=first)

    def words(
        self, x: float, y: float, text: str, *, size: int = 14, bold: bool = False, anchor: str = "middle"
    ) -> None:
        """One line of text whose baseline is at y."""
        weight = ' font-weight="600"' if bold else ""
        self.parts.append(
            f'<text x="{x}" y="{y}" font-size="{size}"{weight} text-anchor="{anchor}" '
            f'fill="{INK}">{escape(text)}</text>'
        )

    def arrow(self, *points: tuple[float, float], dashed: bool = False) -> None:
        """A line through the points, with a head at the last."""
        path = " ".join(f"{x},{y}" for x, y in points)
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self.parts.append(
            f'<polyline points="{path}" fill="none" stroke="{LINE}" stroke-width="1.5"{dash} marker-end="url(#head)"/>'
        )

    def svg(self) -> str:
        """The whole file."""
        width, height = self.size
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            'font-family="system-ui, Helvetica, Arial, sans-serif">\n'
            '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
            f'orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="{LINE}"/></marker></defs>\n'
            f'<rect width="{width}" height="{height}" rx="8" fill="{WHITE}"/>\n'
        )
        return head + "\n".join(self.parts) + "\n</svg>\n"


LAYERS = (
    ("cli", "the table of commands", GREY),
    ("reporting", "rlif report: one page of a run or a lab", ORANGE),
    ("demo, lab, plotting, integrations", "whole experiments; TRL and verl", ORANGE),
    (
        "evaluation, retry, introspection, diagnosis, explanation, self_feedback, mixing, conversion",
        "one command each",
        ORANGE,
    ),
    ("training", "rlif train: loop, step, guard, run directory", ORANGE),
    ("metrics, plots, tasks", "calibration and choice; pictures; the built-in sums", GREEN),
    ("rewards", "statistics and texts in, one number for each completion", GREEN),
    ("scoring", "completions in, statistics out", GREEN),
    ("rollouts", "prompts in, completions out", GREEN),
    ("models", "a model, its fused head, LoRA, a reward model", BLUE),
    ("data", "rows and prompts, word problems", BLUE),
    ("options, files, answers", "shared options; how anything is written; what a text states", BLUE),
    ("errors, interrupts, doing, progress_bar, digits, terminal, printable, extras", "", GREY),
)


def layers() -> Picture:
    """The packages of rlif, each above those that it may import, and the kernels beside them."""
    picture = Picture(980, 688)
    picture.words(380, 30, "rlif: each layer imports only from those below it", bold=True)
    for number, (names, what, fill) in enumerate(LAYERS):
        picture.box(20, 46 + 48 * number, 720, 42, names, fill, what)
    picture.words(870, 214, "rlif_kernels", bold=True)
    picture.box(780, 226, 180, 252, "", BLUE)
    for number, line in enumerate(
        ("token_stats", "linear_token_stats", "grpo_loss", "linear_grpo_loss", "sample_tokens")
    ):
        picture.words(870, 254 + 22 * number, line, size=13)
    picture.words(870, 378, "head: tiles of logits", size=12)
    picture.words(870, 400, "backends: triton, c, torch,", size=12)
    picture.words(870, 416, "and slices of any of them", size=12)
    picture.words(870, 444, "reference: the definitions", size=12)
    picture.words(870, 500, "imports torch and Triton,", size=12)
    picture.words(870, 516, "and nothing of rlif", size=12)
    for y in (259, 403, 451):  # training, scoring, rollouts
        picture.arrow((740, y), (778, y))
    return picture


def training_step() -> Picture:
    """What flows where in an on-policy step of the policy."""
    picture = Picture(860, 500)
    picture.box(20, 30, 150, 60, "prompts", GREY)
    picture.box(220, 30, 190, 60, "rollout", GREEN, "G completions of each")
    picture.box(460, 30, 180, 60, "one forward", BLUE, "of the policy")
    picture.box(690, 30, 150, 60, "hidden states", WHITE, "(B, T, H)")
    picture.arrow((170, 60), (218, 60))
    picture.arrow((410, 60), (458, 60))
    picture.arrow((640, 60), (688, 60))

    picture.box(560, 150, 280, 70, "linear_token_stats", BLUE, "a tile of logits at a time,\nnever all of them")
    picture.arrow((765, 90), (765, 148))
    picture.box(560, 270, 130, 64, "logprob", WHITE, "with gradient")
    picture.box(710, 270, 130, 64, "statistics", WHITE, "detached")
    picture.arrow((625, 220), (625, 268))
    picture.arrow((775, 220), (775, 268))

    picture.box(690, 390, 150, 64, "reward", GREEN, "one number for\neach completion")
    picture.arrow((775, 334), (775, 388))
    picture.box(490, 390, 150, 64, "advantages", GREEN, "within each group")
    picture.arrow((690, 422), (642, 422))
    picture.box(240, 390, 200, 64, "policy loss", ORANGE, "clipped ratio + beta · KL")
    picture.arrow((490, 422), (442, 422))
    picture.arrow((560, 302), (340, 302), (340, 388))
    picture.box(20, 390, 170, 64, "backward, AdamW", ORANGE, "the next step's policy")
    picture.arrow((240, 422), (192, 422))

    picture.box(20, 150, 200, 70, "start model", GREY, "one forward, where\nbeta is not 0")
    picture.arrow((315, 90), (315, 120), (120, 120), (120, 148))
    picture.arrow((120, 220), (120, 302), (290, 302), (290, 388))
    picture.words(205, 294, "ref_logprob", size=12)
    picture.words(452, 294, "the gradient flows back here alone", size=12)
    return picture


def tiles() -> Picture:
    """Hidden states and head become tiles of logits, tiles become rows, and a row leaves six numbers behind."""
    picture = Picture(860, 540)
    picture.words(430, 28, "Forward: tiles of whole rows", bold=True)
    picture.box(20, 50, 90, 180, "hidden", BLUE, "(N, H)")
    picture.words(130, 145, "\N{MULTIPLICATION SIGN}", size=20)
    picture.box(150, 90, 150, 90, "headᵀ", BLUE, "(H, V)")
    picture.words(325, 145, "=", size=20)
    for number in range(3):
        fill = ORANGE if number == 1 else WHITE
        text = ("", "tile of logits", "")[number]
        small = ("done: its memory is free", "rows = (tile_bytes · 15/16) / (V · itemsize)", "not there yet")[number]
        picture.box(350, 50 + 62 * number, 300, 56, text, fill, small)
    picture.arrow((650, 140), (688, 140))
    picture.box(690, 50, 150, 180, "row state", GREEN, "(6, N) float32\nm, log s, ±n,\nentropy, Σ p²,\n1 - p_y")
    picture.words(765, 252, "and the fields, (N,) each", size=12)

    picture.words(430, 288, "One row, read once", bold=True)
    for number in range(12):
        picture.box(20 + 54 * number, 304, 50, 34, "", ORANGE if number < 8 else WHITE)
    picture.words(
        343, 358, "V columns: tiles of a kernel make a chunk, chunks make the row, always in this order", size=12
    )
    picture.box(690, 296, 150, 50, "", GREEN, "running maximum m\nand sums relative to it")
    picture.arrow((666, 321), (688, 321))

    picture.words(430, 398, "Backward: tiles of columns of all rows, from the row state alone", bold=True)
    for number in range(4):
        picture.box(190 + 70 * number, 414, 64, 90, "", ORANGE if number == 1 else WHITE)
    picture.words(327, 524, "gradient of the logits, in the tile's own memory", size=12)
    picture.box(20, 414, 120, 90, "row state", GREEN, "no reduction\nis left to do")
    picture.arrow((140, 459), (188, 459))
    picture.arrow((464, 435), (528, 435))
    picture.arrow((464, 483), (528, 483))
    picture.box(530, 414, 310, 42, "", BLUE, "gradient of the head: one product for each tile")
    picture.box(530, 462, 310, 42, "", BLUE, "gradient of hidden: a sum over tiles, in float32")
    return picture


PICTURES = {"layers": layers, "training-step": training_step, "tiles": tiles}


def main() -> None:
    for name, draw in PICTURES.items():
        (Path(__file__).parent / f"{name}.svg").write_text(draw().svg(), encoding="utf-8")


if __name__ == "__main__":
    main()

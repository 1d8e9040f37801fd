"""The page in a real browser, which is Chromium: colours, the choice among them, room on a phone, dark and light."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread

from made_evaluations import ROWS, row, write_evaluated
from made_runs import SAMPLES, sample, write_run
from rlif.reporting.report import report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-headless-shell", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="there is no Chromium: `apt-get install chromium` brings one"),
]

# Asks the page what a person would look at. The page itself runs no script, so that this is put into a copy of it.
PROBE = """
<script>
const colour = name => getComputedStyle(document.querySelector(".completion .tokens " + name)).backgroundColor;
const seen = {};
const look = () => ({first: colour(".t:first-child"), last: colour(".t:last-child"),
  legends: [...document.querySelectorAll(".legends > div")]
    .filter(each => each.offsetHeight).map(each => each.className)});
seen.entropy = look();
document.querySelector("label[for=by-self_certainty]").click();
seen.self_certainty = look();
const wide = [...document.querySelectorAll("main *")].filter(each => !each.closest(".scroll, .tokens, pre, svg"))
  .filter(each => each.getBoundingClientRect().right > innerWidth + 1);
seen.wide = wide.map(each => each.tagName + "." + each.className);
seen.over = document.documentElement.scrollWidth - innerWidth;
seen.page = getComputedStyle(document.body).backgroundColor;
seen.ink = getComputedStyle(document.body).color;
seen.width = innerWidth;
seen.evil = window.evil === true;
parent.postMessage(JSON.stringify(seen), "*");
</script></body>
"""
# Windows have a least width, which is more than a phone has; a frame has none.
FRAME = """<!doctype html><meta name="color-scheme" content="light dark"><title></title>
<script>onmessage = event => { document.title = event.data; }</script>
<iframe src="probed.html" width="WIDTH" height="1300" style="border: 0"></iframe>
"""
LONG = "a_name_that_no_line_can_break_" * 20


def browse(page: Path, *words: str, dark: bool = False) -> str:
    """Run Chromium on a page, with a home of its own and no network."""
    command = [
        str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-extensions",
        "--disable-background-networking", "--disable-dev-shm-usage", "--hide-scrollbars",
        "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={page.parent / 'home'}",
        "--window-size=1300,1400", f"--blink-settings=preferredColorScheme={0 if dark else 1}", *words,
        page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module", params=["run", "evaluation"])
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("browser")
    evil = "<script>window.evil = true</script><img src=x onerror='window.evil = true'>"
    if request.param == "run":
        samples = [sample(0, evil), sample(0, LONG, prompt=LONG), *SAMPLES]
        return report(write_run(directory / "run", samples=samples), directory / "report.html")
    surest = row(20, completions=[LONG, evil, evil, evil], prompt=LONG, token_confidence=None)
    return report(write_evaluated(directory / "evaluation", [*ROWS, surest]), directory / "report.html")


def seen(page: Path, width: int, dark: bool) -> dict[str, Any]:
    """What the probe sees in a copy of the page that may run scripts, in a frame of that many pixels."""
    text = page.read_text(encoding="utf-8")
    policy = re.search(r'<meta http-equiv="Content-Security-Policy"[^>]*>', text)
    copy = page.with_name("probed.html")
    copy.write_text(text.replace(policy[0], "").replace("</body>", PROBE), encoding="utf-8")
    frame = page.with_name("frame.html")
    frame.write_text(FRAME.replace("WIDTH", str(width)), encoding="utf-8")
    found = browse(frame, "--dump-dom", "--virtual-time-budget=10000", dark=dark)
    title = re.search(r"<title>(.*?)</title>", found)[1]
    return json.loads(html.unescape(title))


def lightness(colour: str) -> float:
    return sum(map(float, re.findall(r"\d+", colour)[:3])) / 765


@pytest.mark.parametrize(("width", "dark"), [(1200, False), (400, True)])
def test_tokens_are_coloured_the_choice_works_without_script_and_nothing_is_cut_off(
    page: Path, width: int, dark: bool
) -> None:
    found = seen(page, width=width, dark=dark)
    assert not found["evil"]  # what models write stays text, even where scripts may run
    for name in ("entropy", "self_certainty"):
        assert found[name]["first"] == "rgba(0, 0, 0, 0)"
        assert found[name]["last"].endswith(", 0.8)")
        assert found[name]["legends"] == [f"legend-of-{name}"]
    assert (found["width"], found["wide"], found["over"]) == (width, [], 0)
    assert (lightness(found["page"]) < lightness(found["ink"])) is dark


def test_a_screenshot_shows_the_page(page: Path) -> None:
    browse(page, f"--screenshot={page.with_name('seen.png')}")
    pixels = imread(page.with_name("seen.png"))[..., :3]
    assert pixels.shape[1] == 1300
    ink = pixels.min(axis=-1) < 0.5
    assert 0.002 < ink.mean() < 0.3  # text and lines on a light page
    assert ink[:200].any()
    assert ink[-200:].any()

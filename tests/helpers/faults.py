"""Hurts: each does something bad to a command, lets it go on, and says what was lost.

Nothing is lost where every end is clean (it is the documented exit code with one line, without a traceback), what had
been acknowledged is still there, and the command ends with what it would have come to unhurt.
"""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fault_contents import acknowledged, contents, differences, files, lost
from fault_rows import OUT, ROWS, Row, Shared
from fault_server import End, Moment, Running, Server
from rlif.errors import UserError
from rlif.files.directories import MANIFEST, is_whole
from rlif.files.jsonl import SETTINGS, read_rows

SIZES = 12
# Without --full, of a command and a kind of hurt: sizes, signals, files damaged.
FEW_SIZES, FEW_HURTS, FEW_FILES = 3, 1, 2
Detail = dict[str, object]


@dataclass(frozen=True)
class Unhurt:
    """A run that nobody hurt."""

    out: Path
    changes: int
    """To the files of its directory."""


@dataclass
class Bench:
    """One command in a directory of its own, to be hurt there."""

    server: Server
    shared: Shared
    unhurt: Unhurt
    name: str
    place: Path

    def __post_init__(self) -> None:
        self.place = self.place.resolve()
        self.place.mkdir(parents=True)
        self.row: Row = ROWS[self.name]
        self.out = self.place / OUT
        self.expected = contents(self.unhurt.out)
        self.told: list[str] = []
        """Everything that was lost so far."""
        self.tried = 0
        """Hurts that came before the command was over."""
        self.prepare()

    def prepare(self) -> None:
        """Put there what the command needs."""
        if self.row.needs_out:
            self.out.mkdir(exist_ok=True)

    def start(self, **more: object) -> Running:
        """Start the command, or let it go on if it has begun."""
        words = self.row.words(self.shared).split()
        if self.row.goes_on is not None and self.out.is_dir():
            words += self.row.goes_on.split()
        return self.server.start(words, self.place, miniature=self.row.miniature, **more)  # type: ignore[arg-type]

    def begin_anew(self) -> None:
        """Move out of the way what a command left that does not go on, as its user would."""
        if self.row.goes_on is None and not self.row.needs_out and self.out.exists():
            number = 1
            while (aside := self.place / f"before-{number}").exists():
                number += 1
            self.out.rename(aside)

    def obey(self, end: End) -> bool:
        """Move a run aside that asks for a new one to be begun, and tell whether it does: its model would be lost."""
        asks = "; expected a new run, perhaps one that starts from" in end.errors
        if asks:
            self.out.rename(self.place / f"kept-{len(list(self.place.glob('kept-*')))}")
        return asks

    def tell(self, faults: list[str], what: str) -> None:
        """Remember what was lost."""
        self.told += [f"{what}: {fault}" for fault in faults]

    def expect(self, end: End, codes: set[int], what: str) -> None:
        """Hold an end to being clean."""
        self.tell(unclean(end, codes), what)

    def look(self, before: dict[str, object], what: str) -> None:
        """See whether everything is still there that was acknowledged, and whether what must be whole is so."""
        if self.row.goes_on is not None:
            self.tell(lost(before, acknowledged(self.out)), what)
        if self.row.all_at_once and files(self.out):
            self.tell(differences(contents(self.out), self.expected), what)

    def acknowledged(self) -> dict[str, object]:
        """What the command goes on from."""
        return acknowledged(self.out) if self.row.goes_on is not None else {}

    def finish(self, what: str) -> None:
        """Let the command go on to its end, and compare."""
        before = self.acknowledged()
        self.begin_anew()
        end = self.start().wait()
        if self.obey(end):
            before, end = self.acknowledged(), self.start().wait()
        self.expect(end, {0}, f"{what}, then unhurt")
        if not self.out.is_dir():
            self.tell(["it left nothing"], what)
            return
        self.tell(differences(contents(self.out), self.expected), what)
        self.look(before, what)


def unclean(end: End, codes: set[int]) -> list[str]:
    """What is wrong with the end of a command, in a few words each."""
    lines = end.errors.splitlines()
    if end.code is None:
        return ["it hangs"]
    found = [f"{lines[-1][:200]} (in a traceback)"] if "Traceback" in end.errors and lines else []
    found += ["an exception is ignored"] if "Exception ignored" in end.errors else []
    if end.code not in codes:
        found.append(f"exit code {end.code}, not {' or '.join(map(str, sorted(codes)))} ({' '.join(lines[-1:])[:300]})")
    elif end.code > 0:
        said = [line for line in lines if line.startswith("rlif: ")]
        if not said or said != lines[-1:] or (end.code == 2) != said[-1].startswith("rlif: error: "):
            found.append(f"it ends with {' / '.join(lines[-2:])[:300]}")
    return found


def by_signal(bench: Bench, detail: Detail) -> None:
    """Send it a signal, perhaps twice."""
    number = signal.Signals[str(detail["signal"])]
    again = detail.get("again")
    moment = Moment(number, int(detail["change"]), float(detail["delay"]), again)  # type: ignore[call-overload,arg-type]
    before = bench.acknowledged()
    bench.begin_anew()
    end = bench.start(moment=moment).wait()
    bench.tried += end.struck
    code = -number if number == signal.SIGKILL else 128 + number
    what = f"{number.name} at change {detail['change']}"
    bench.expect(end, {0, code}, what)
    bench.look(before, what)


def by_limit(bench: Bench, detail: Detail) -> None:
    """Let no file grow beyond a size, as on a full disk."""
    bench.begin_anew()
    before = bench.acknowledged()
    end = bench.start(limit=detail["size"]).wait()
    bench.tried += 1
    what = f"files of at most {detail['size']} bytes"
    bench.expect(end, {0, 2}, what)
    bench.look(before, what)
    bench.obey(end)


def by_damage(bench: Bench, detail: Detail) -> None:
    """Change a file of a finished run; it is made again, or one line says what is wrong and nothing else is lost."""
    path = bench.out / str(detail["file"])
    whole = path.read_bytes()
    damage(path, detail)
    bench.tried += 1
    what = f"{detail['file']} {detail['kind']}"
    end = bench.start().wait()
    bench.expect(end, {0, 2}, what)
    if end.code == 2:
        path.write_bytes(whole)
        bench.finish(f"{what}, then as it was")
    else:
        found = differences(contents(bench.out), bench.expected)
        # Where nothing had to read it, whatever does will see that it is damaged: an older checkpoint, say.
        own = [each for each in found if each.startswith(f"{detail['file']} ")] if is_seen(path) else []
        bench.tell([each for each in found if each not in own], what)
    if differences(contents(bench.out), bench.expected) or not all(map(is_whole, sealed_in(bench.out))):
        shutil.rmtree(bench.out)  # for the next one
        shutil.copytree(bench.unhurt.out, bench.out)


def sealed_in(directory: Path) -> list[Path]:
    """The directories in a directory that have checksums of their files."""
    return [path.parent for path in directory.rglob(MANIFEST)]


def is_seen(path: Path) -> bool:
    """Tell whether who reads a damaged file knows that it is damaged, or gone."""
    if not path.exists() or ((path.parent / MANIFEST).exists() and not is_whole(path.parent)):
        return True
    if path.name.endswith(SETTINGS):  # whose every value is compared
        return True
    try:
        return path.suffix == ".jsonl" and not read_rows(path)
    except UserError:
        return True


def damage(path: Path, detail: Detail) -> None:
    """Flip a bit of a file, cut it, or remove it."""
    content = bytearray(path.read_bytes())
    if detail["kind"] == "removed":
        path.unlink()
    elif detail["kind"] == "cut":
        path.write_bytes(content[: int(len(content) * float(detail["at"]))])  # type: ignore[arg-type]
    elif content:
        content[int(len(content) * float(detail["at"]))] ^= 1 << int(detail["bit"])  # type: ignore[arg-type,call-overload]
        path.write_bytes(content)


def by_second_process(bench: Bench, detail: Detail) -> None:
    """Start it again while it is at work: one of the two does it, and the other says so."""
    bench.begin_anew()
    first = bench.start(moment=Moment(signal.SIGSTOP, int(detail["change"])))  # type: ignore[call-overload]
    what = f"a second one at change {detail['change']}"
    stopped = first.wait_until_stopped()
    bench.tried += stopped
    second = bench.start()
    if not stopped or bench.row.needs_out or not any(bench.place.rglob("*.lock")):
        bench.expect(second.wait(), {0, 2}, f"{what}, the second")
    else:
        bench.expect(second.wait(), {2}, f"{what}, the second")
    if stopped:
        first.go_on()
    bench.expect(first.wait(), {0, 2}, f"{what}, the first")


def by_directory(bench: Bench, detail: Detail) -> None:
    """Remove or rename its directory while it is at work."""
    bench.begin_anew()
    bench.prepare()
    aside = bench.place / "renamed"
    running = bench.start(moment=Moment(signal.SIGSTOP, int(detail["change"])))  # type: ignore[call-overload]
    what = f"{detail['kind']} at change {detail['change']}"
    before: dict[str, object] = {}
    if running.wait_until_stopped():
        bench.tried += 1
        if bench.out.is_dir():
            if detail["kind"] == "removed":
                shutil.rmtree(bench.out)
            else:
                before = acknowledged(bench.out)
                bench.out.rename(aside)
        running.go_on()
    bench.expect(running.wait(), {0, 2}, what)
    if detail["kind"] == "removed":
        shutil.rmtree(bench.out, ignore_errors=True)
    elif aside.is_dir():
        shutil.rmtree(bench.out, ignore_errors=True)
        aside.rename(bench.out)
        bench.look(before, what)
    bench.prepare()


@dataclass(frozen=True)
class Kind:
    """A way to hurt."""

    hurt: Callable[[Bench, Detail], None]
    draw: Callable[[random.Random, Row, Unhurt], Detail]
    """Draws one hurt of this kind."""
    count: int
    """Hurts of the suite."""
    of_finished: bool = False
    """Whether a finished run is hurt, and not one at work."""


def _signal(name: str, *, twice: bool = False) -> Callable[[random.Random, Row, Unhurt], Detail]:
    def draw(chance: random.Random, row: Row, unhurt: Unhurt) -> Detail:
        delay = chance.choice((0.0, chance.uniform(0.0, row.delay)))
        detail: Detail = {"signal": name, "change": chance.randint(1, unhurt.changes), "delay": delay}
        return detail | ({"again": chance.uniform(0.0, row.delay)} if twice else {})

    return draw


def _limit(chance: random.Random, row: Row, unhurt: Unhurt) -> Detail:
    sizes = [path.stat().st_size for path in files(unhurt.out).values()]
    # From nothing to everything: around the size of one of its files.
    return {"size": int(chance.choice(sizes) * chance.choice((0, chance.random(), 1)))}


def _damage(kind: str) -> Callable[[random.Random, Row, Unhurt], Detail]:
    def draw(chance: random.Random, row: Row, unhurt: Unhurt) -> Detail:
        name = chance.choice(sorted(files(unhurt.out)))
        return {"kind": kind, "file": name, "at": chance.random(), "bit": chance.randrange(8)}

    return draw


def _at_a_change(kind: str) -> Callable[[random.Random, Row, Unhurt], Detail]:
    return lambda chance, row, unhurt: {"kind": kind, "change": chance.randint(1, unhurt.changes)}


KINDS = {
    "SIGKILL": Kind(by_signal, _signal("SIGKILL"), 4),
    "SIGTERM": Kind(by_signal, _signal("SIGTERM"), 3),
    "SIGINT twice": Kind(by_signal, _signal("SIGINT", twice=True), 3),
    "file-size limit": Kind(by_limit, _limit, SIZES),
    "bit flipped": Kind(by_damage, _damage("flipped"), 0, of_finished=True),
    "file cut": Kind(by_damage, _damage("cut"), 0, of_finished=True),
    "file removed": Kind(by_damage, _damage("removed"), 0, of_finished=True),
    "second process": Kind(by_second_process, _at_a_change("second"), 1),
    "directory removed": Kind(by_directory, _at_a_change("removed"), 1),
    "directory renamed": Kind(by_directory, _at_a_change("renamed"), 1),
}


def why_not(command: str, kind: str) -> str | None:
    """Say in a word why a cell of the table stays empty; None if it does not."""
    if KINDS[kind].of_finished and not ROWS[command].reads_own_files:
        return "anew"
    return None


def hurt(bench: Bench, kind: str, details: list[Detail]) -> None:
    """Hurt a command once or several times, and let it go on to its end."""
    if KINDS[kind].of_finished:
        shutil.copytree(bench.unhurt.out, bench.out)
    for detail in details:
        KINDS[kind].hurt(bench, detail)
    if not KINDS[kind].of_finished:
        bench.finish(f"{kind}, at the end")


def details_of(command: str, kind: str, unhurt: Unhurt, *, full: bool) -> list[Detail]:
    """The hurts of the suite: the same at every run, and without `full` some of them."""
    chance, row = random.Random(f"{command} {kind}"), ROWS[command]
    if kind == "file-size limit":
        sizes = sorted(path.stat().st_size for path in files(unhurt.out).values())
        number = SIZES if full else FEW_SIZES
        # From nothing up to the largest file, as many in between as files are there to be cut short by them.
        picked = [sizes[place * (len(sizes) - 1) // (number - 2)] for place in range(number - 1)]
        return [{"size": size} for size in (0, *(max(0, size - 1) for size in picked))]
    if not KINDS[kind].of_finished:
        count = min(KINDS[kind].count, row.hurts if full else FEW_HURTS)
        drawn = sorted(
            (KINDS[kind].draw(chance, row, unhurt) for _ in range(count)), key=lambda each: int(each["change"])
        )  # type: ignore[call-overload]
        # Every other one at the very change: a moment later the command may be over.
        return [
            detail | ({"delay": 0.0} if "delay" in detail and number % 2 == 0 else {})
            for number, detail in enumerate(drawn)
        ]
    names = sorted(files(unhurt.out))
    # Each file is damaged in one way of the three here; --full tries all.
    of_kind = [kind for kind, each in KINDS.items() if each.of_finished]
    mine = [name for number, name in enumerate(names) if of_kind[number % 3] == kind]
    most = row.files_damaged if full else FEW_FILES
    if len(mine) > most:
        mine = sorted(chance.sample(mine, most))
    return [KINDS[kind].draw(chance, row, unhurt) | {"file": name} for name in mine]

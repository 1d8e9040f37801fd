#!/usr/bin/env bash
# One would guess: what math-verify calls equal can be counted as one answer. If a equals b and b equals c, then a equals c, so
# that the classes of a majority vote, or of a reward by the majority, do not depend on the order in which samples come.
# And a plain number is read as that number, as float() reads it.
# What happens in math-verify 0.9.0: 10% equals 0.1 and equals 10, in either direction, and 0.1 and 10 differ. The set {1,2} as
# the right answer accepts the points (1,2) and (2,1), which do not accept each other. Decimals are compared after
# rounding to six places, so that one of 1e-7 equals one of 2e-7. A number with an exponent loses it: 1e-3 is read
# as 1, and equals 1 and not 0.001; in LaTeX 1.5e3 is 1.5 times Euler's number times 3. No warning is given.
# Its documentation says that verify is not symmetric; that it is not transitive, one has to find out.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m pip install --quiet --no-compile --target "$work/packages" \
  math-verify==0.9.0 latex2sympy2_extended==1.11.0 sympy==1.14.0 mpmath==1.3.0 2>/dev/null
cat > "$work/look.py" <<'PY'
import sys
from importlib.metadata import version

import math_verify


def parse(answer: str) -> list:
    return math_verify.parse(answer, parsing_timeout=None)  # the default of 5 seconds ends a slow import as "no answer"


def verify(gold: str, answer: str) -> bool:
    return math_verify.verify(parse(gold), parse(answer), timeout_seconds=None)


def equal(left: str, right: str) -> list[bool]:
    """What verify says with the left as the right answer, and with the right."""
    found = [verify(left, right), verify(right, left)]
    print(f"{left} accepts {right}: {found[0]}, and the other way round: {found[1]}")
    return found


print("math-verify", version("math-verify"), "latex2sympy2_extended", version("latex2sympy2_extended"))
seen = [
    equal(r"$10\%$", "$0.1$") == equal(r"$10\%$", "$10$") == [True, True],
    equal("$0.1$", "$10$") == [False, False],
    equal(r"$\{1,2\}$", "$(1,2)$")[0] and equal(r"$\{1,2\}$", "$(2,1)$")[0],
    equal("$(1,2)$", "$(2,1)$") == [False, False],
    equal("$0.0000001$", "$0.0000002$") == [True, True],
    equal("1e-3", "1") == [True, True] and equal("1e-3", "0.001") == [False, False],
]
in_latex = str(parse("$1.5e3$")[0])
print("$1.5e3$ is read as", in_latex)
if not all(seen) or in_latex != "1.5*E*3":
    sys.exit("changed: see the lines above")
PY
PYTHONPATH="$work/packages" python3 "$work/look.py"

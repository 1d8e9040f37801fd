#!/usr/bin/env bash
# One would guess: load_dataset("json") gives a string of the file as a string and a whole number as that number, or says that
# it cannot; JSON itself tells the two apart. And the same rows by Dataset.from_list come out alike.
# What happens in datasets 5.2.0 with pyarrow 26.0.1: a column of which every string looks like a date, with or without a
# time, becomes timestamps. The answer "2024-01-01" is then a datetime, which equals no string and reads "2024-01-01 00:00:00"
# by str; "2024-01-01 10:00" and "2024-01-01T10:00:00" are one. With one other answer in the file all of them stay
# strings, so that the whole file is right and a filtered part of it is not. The contents of messages fare likewise. To
# pass features with a string for the column does not help: the strings are parsed all the same, and written out anew.
# A whole number beyond 64 bits makes floats of its whole column, without a word: 18446744073709551617 loses its last
# digits, and its neighbour 1 becomes 1.0. Dataset.from_list keeps the strings, and raises at the number.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy==2.4.6 pyarrow==26.0.1 datasets==5.2.0 2>/dev/null
cat > "$work/look.py" <<'PY'
import datetime
import json
import sys
import warnings
from pathlib import Path

import datasets
import pyarrow
from datasets import Dataset, Features, Value

datasets.disable_progress_bars()
folder = Path(sys.argv[1])


def load(name: str, values: list, **options) -> list:
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps({"answer": value}) + "\n" for value in values))
    loaded = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=str(folder / name), **options)
    print(f"{name}: {values} is loaded as {loaded.features['answer']}", [str(value) for value in loaded["answer"]])
    return list(loaded["answer"])


print("datasets", datasets.__version__, "pyarrow", pyarrow.__version__)
warnings.simplefilter("error")
days, moments = ["2024-01-01", "1999-12-31"], ["2024-01-01 10:00", "2024-01-01T10:00:00"]
found = {
    "days are timestamps": load("days", days) == [datetime.datetime(2024, 1, 1), datetime.datetime(1999, 12, 31)],
    "two spellings are one": load("moments", moments) == [datetime.datetime(2024, 1, 1, 10)] * 2,
    "with another answer they stay": load("mixed", [*days, "42"]) == [*days, "42"],
    "with features they are written anew": load("typed", days, features=Features({"answer": Value("string")}))
    == ["2024-01-01 00:00:00", "1999-12-31 00:00:00"],
    "by from_list they stay": list(Dataset.from_list([{"answer": day} for day in days])["answer"]) == days,
}
messages = load("messages", [[{"role": "user", "content": "2024-01-01"}]])
found["contents of messages are timestamps"] = messages[0][0]["content"] == datetime.datetime(2024, 1, 1)
numbers = [2**64 + 1, 1]
loaded = load("numbers", numbers)
found["one number makes floats of all"] = [type(value) for value in loaded] == [float, float] and loaded[0] != numbers[0]
try:
    Dataset.from_list([{"answer": number} for number in numbers])
except OverflowError as error:
    print("Dataset.from_list raises OverflowError:", error)
    found["from_list raises"] = True
for what, is_so in found.items():
    print(f"{what}: {is_so}")
if not all(found.values()) or len(found) != 8:
    sys.exit("changed: see the lines above")
PY
"$work/venv/bin/python" "$work/look.py" "$work"

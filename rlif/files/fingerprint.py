"""Short names for long contents: they differ where the contents do."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable


def fingerprint(items: Iterable[object]) -> str:
    """64 hexadecimal digits that change with any value in the items and with their order.

    An item is anything that JSON can hold; the order of a dict's keys does not matter.
    """
    digest = hashlib.sha256()
    for item in items:
        digest.update(json.dumps(item, sort_keys=True).encode())
    return digest.hexdigest()

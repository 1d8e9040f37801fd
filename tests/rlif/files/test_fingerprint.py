"""A fingerprint changes with what it is of, and is the same in every release."""

from rlif.files.fingerprint import fingerprint


def test_a_fingerprint_changes_with_every_value_and_with_their_order() -> None:
    items = [[1, None], [2, "two"]]
    others = [items[::-1], items[:1], [[1, None], [2, "three"]], [[1, 0], [2, "two"]]]
    assert len({fingerprint(each) for each in [items, *others]}) == 5
    assert fingerprint([{"a": 1, "b": 2}]) == fingerprint([{"b": 2, "a": 1}])


def test_files_of_earlier_releases_keep_their_fingerprints() -> None:
    assert fingerprint([[[3, 4], "7"], [[5], None]]) == (
        "25e575dc13cd7ad6ae8e2f2ad2ed90ac72029f6f8c67b29626e1e34882469efe"
    )

"""verl's environment is that of all other tests, but for what verl itself rules out."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
VERL_NEEDS_OLDER = {"transformers", "tokenizers", "packaging", "huggingface-hub"}


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_both_environments_have_the_same_versions_but_for_what_verl_rules_out() -> None:
    common, verl = pins("constraints.txt"), pins("constraints-verl.txt")
    differing = {name for name in common.keys() & verl.keys() if common[name] != verl[name]}
    assert differing == VERL_NEEDS_OLDER
    # What verl's environment has no use for.
    no_use = {"trl", "liger-kernel", "cut-cross-entropy"}
    no_use |= {"kernels", "wandb", "trackio", "pip"}
    no_use |= {"mkdocs", "mkdocs-material", "mkdocstrings", "mkdocstrings-python"}
    assert common.keys() - verl.keys() == no_use

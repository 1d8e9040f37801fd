"""Mixed weights are the weighted mean of the two models', to the bit where that has one, and load as a model."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from rlif.errors import UserError
from rlif.mixing import weight_files
from rlif.mixing.command import run as run_mix
from rlif.mixing.mix import mix
from rlif.mixing.options import MixConfig
from rlif.mixing.weight_files import WeightFiles
from tiny_models import files_of_at_most, make_model, make_tokenizer, save_model

IDS = torch.tensor([[3, 5, 4, 6, 13, 14]])
MakePair = Callable[..., tuple[Path, Path]]


def random_model(seed: int, dtype: torch.dtype = torch.float32, **settings: object) -> PreTrainedModel:
    torch.manual_seed(seed)
    sizes = dict(vocab_size=18, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2)
    sizes |= dict(num_key_value_heads=1, head_dim=8, initializer_range=0.3, tie_word_embeddings=False)
    return Qwen3ForCausalLM(Qwen3Config(**(sizes | settings))).to(dtype)


@pytest.fixture
def pair(tmp_path: Path) -> MakePair:
    """Save two random models; keyword arguments of each change its configuration."""

    def make(base: dict[str, object] | None = None, instruct: dict[str, object] | None = None) -> tuple[Path, Path]:
        for seed, (name, settings) in enumerate({"base": base or {}, "instruct": instruct or {}}.items()):
            random_model(seed, **settings).save_pretrained(tmp_path / name)  # type: ignore[arg-type]
            make_tokenizer().save_pretrained(tmp_path / name)
        return tmp_path / "base", tmp_path / "instruct"

    return make


def weights(directory: Path) -> dict[str, Tensor]:
    files = sorted(directory.glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def logits(directory: Path) -> Tensor:
    model, info = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    return model(IDS).logits


@pytest.mark.parametrize("ties", [(False, False), (True, True), (True, False), (False, True)])
def test_the_mix_is_the_model_of_the_mean_weights_however_the_embeddings_are_tied(
    ties: tuple[bool, bool], pair: MakePair, tmp_path: Path
) -> None:
    base, instruct = pair(*({"tie_word_embeddings": tied} for tied in ties))
    mix(base, instruct, 0.3, tmp_path / "mixed")

    by_hand = random_model(2)
    states = [AutoModelForCausalLM.from_pretrained(each).state_dict() for each in (base, instruct)]
    by_hand.load_state_dict({name: 0.7 * states[0][name] + 0.3 * states[1][name] for name in states[0]})
    # Two ways of rounding a mean, through two layers with activations of order 1: some tens of roundings.
    torch.testing.assert_close(logits(tmp_path / "mixed"), by_hand(IDS).logits, atol=1e-5, rtol=1e-5)
    assert ("lm_head.weight" in weights(tmp_path / "mixed")) is not all(ties)
    config = json.loads((tmp_path / "mixed/config.json").read_text())
    assert config["tie_word_embeddings"] is all(ties)


def test_a_tie_that_one_model_stores_twice_is_written_once(pair: MakePair, tmp_path: Path) -> None:
    base, instruct = pair({"tie_word_embeddings": True}, {"tie_word_embeddings": True})
    stored = load_file(instruct / "model.safetensors")
    twice = stored | {"lm_head.weight": stored["model.embed_tokens.weight"].clone()}
    save_file(twice, instruct / "model.safetensors", metadata={"format": "pt"})
    mix(base, instruct, 0.5, tmp_path / "mixed")
    assert weights(tmp_path / "mixed").keys() == stored.keys()

    # transformers does not tie what is stored with different values, whatever the configuration says.
    save_file(twice | {"lm_head.weight": -twice["lm_head.weight"]}, instruct / "model.safetensors", {"format": "pt"})
    mix(base, instruct, 0.5, tmp_path / "untied")
    assert weights(tmp_path / "untied")["lm_head.weight"].abs().max() < 1
    assert logits(tmp_path / "untied").isfinite().all()


def test_a_tie_that_is_stored_under_its_other_name_is_the_same_tie(pair: MakePair, tmp_path: Path) -> None:
    base, instruct = pair({"tie_word_embeddings": True}, {"tie_word_embeddings": True})
    stored = load_file(instruct / "model.safetensors")
    stored["lm_head.weight"] = stored.pop("model.embed_tokens.weight")
    save_file(stored, instruct / "model.safetensors", metadata={"format": "pt"})
    mix(base, instruct, 1, tmp_path / "mixed")
    assert weights(tmp_path / "mixed").keys() == weights(base).keys()
    assert torch.equal(logits(tmp_path / "mixed"), logits(instruct))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("ratio", [0, 1])
def test_at_0_and_1_the_weights_are_those_of_one_model_to_the_bit(
    ratio: int, dtype: torch.dtype, pair: MakePair, tmp_path: Path
) -> None:
    models = pair({"dtype": dtype}, {"dtype": dtype})
    for path in models:  # a zero with a sign, which a sum loses
        tensors = load_file(path / "model.safetensors")
        tensors["model.norm.weight"][0] = -0.0
        save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    mix(*models, ratio, tmp_path / "mixed")
    expected, mixed = weights(models[ratio]), weights(tmp_path / "mixed")
    assert expected.keys() == mixed.keys()
    integers = {torch.float32: torch.int32, torch.bfloat16: torch.int16}[dtype]
    assert all(torch.equal(expected[name].view(integers), mixed[name].view(integers)) for name in expected)


def test_equal_weights_stay_as_they_are_at_any_ratio(pair: MakePair, tmp_path: Path) -> None:
    base, _ = pair()
    mix(base, base, 0.3, tmp_path / "mixed")
    expected, mixed = weights(base), weights(tmp_path / "mixed")
    assert all(torch.equal(expected[name], mixed[name]) for name in expected)


def test_the_mean_is_rounded_once_to_the_type_of_the_base(pair: MakePair, tmp_path: Path) -> None:
    base, instruct = pair({"dtype": torch.bfloat16})
    mix(base, instruct, 0.3, tmp_path / "mixed")
    one, other, mixed = weights(base), weights(instruct), weights(tmp_path / "mixed")
    for name in mixed:
        assert mixed[name].dtype == torch.bfloat16
        exact = 0.7 * one[name].double() + 0.3 * other[name].double()
        # Half a unit in the 8th bit, and the rounding of float32 that may push a mean over the middle.
        torch.testing.assert_close(mixed[name].double(), exact, rtol=2**-8, atol=1e-7)


def test_shards_and_pieces_change_nothing(pair: MakePair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, instruct = pair()
    mix(base, instruct, 0.3, tmp_path / "one")
    for path in (base, instruct):
        model = AutoModelForCausalLM.from_pretrained(path)
        (path / "model.safetensors").unlink()
        model.save_pretrained(path, max_shard_size=4000 if path == base else 6000)
        assert len(list(path.glob("*.safetensors"))) > 1
    monkeypatch.setattr(weight_files, "PIECE_ELEMENTS", 50)
    mix(base, instruct, 0.3, tmp_path / "many", max_shard_size=5000)
    files = list((tmp_path / "many").glob("*.safetensors"))
    assert len(files) > 2
    assert all(sum(each.numel() * 4 for each in load_file(file).values()) <= 5000 for file in files)
    assert torch.equal(logits(tmp_path / "one"), logits(tmp_path / "many"))


def test_whole_numbers_are_copied_and_must_be_equal(pair: MakePair, tmp_path: Path) -> None:
    base, instruct = pair()
    buffers = {"steps": torch.tensor(7), "none": torch.zeros(0, 3), "mask": torch.tensor([True, False])}
    for path in (base, instruct):
        save_file(load_file(path / "model.safetensors") | buffers, path / "model.safetensors", {"format": "pt"})
    mix(base, instruct, 0.5, tmp_path / "mixed")
    assert all(torch.equal(weights(tmp_path / "mixed")[name], buffer) for name, buffer in buffers.items())
    changed = load_file(instruct / "model.safetensors") | {"steps": torch.tensor(8)}
    save_file(changed, instruct / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"instruct: .*: steps \(torch.int64\) differs from that of"):
        mix(base, instruct, 0.5, tmp_path / "again")


@pytest.mark.parametrize("source", ["base", "instruct"])
def test_the_tokenizer_is_the_wanted_one_with_its_end_tokens(source: str, pair: MakePair, tmp_path: Path) -> None:
    base, instruct = pair()
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{{ messages[0].content }}"
    tokenizer.save_pretrained(instruct)
    (instruct / "generation_config.json").write_text('{"eos_token_id": [1, 7]}')
    mix(base, instruct, 0.5, tmp_path / "mixed", tokenizer_from=source)  # type: ignore[arg-type]
    assert (AutoTokenizer.from_pretrained(tmp_path / "mixed").chat_template is not None) is (source == "instruct")
    ends = json.loads((tmp_path / "mixed/generation_config.json").read_text()).get("eos_token_id")
    assert (ends == [1, 7]) is (source == "instruct")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vocab_size": 20}, r"instruct: .*: \S+ has shape \(20, 16\), expected \(18, 16\) as in "),
        ({"num_hidden_layers": 3}, r"base: .* has no model\.layers\.2\.\S+, which .* has \(11 such tensors\)"),
        ({"num_hidden_layers": 1}, r"instruct: .* has no model\.layers\.1\.\S+, which .* has \(11 such tensors\)"),
        ({"num_attention_heads": 4, "head_dim": 4}, "instruct: .* has num_attention_heads 4, expected 2 as in "),
    ],
)
def test_models_that_do_not_fit_are_refused_by_the_first_difference(
    settings: dict[str, object], message: str, pair: MakePair, tmp_path: Path
) -> None:
    base, instruct = pair(instruct=settings)
    with pytest.raises(UserError, match=message):
        mix(base, instruct, 0.5, tmp_path / "mixed")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "instruct"]


def test_another_architecture_is_refused(pair: MakePair, tmp_path: Path) -> None:
    base, instruct = pair()
    make_model("llama").save_pretrained(instruct)
    with pytest.raises(UserError, match="has model_type 'llama', expected 'qwen3'"):
        mix(base, instruct, 0.5, tmp_path / "mixed")


def test_weights_that_are_not_safetensors_are_refused(pair: MakePair, tmp_path: Path) -> None:
    base, instruct = pair()
    (instruct / "model.safetensors").rename(instruct / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"instruct: .* has no model\.safetensors; expected weights in safetensors"):
        mix(base, instruct, 0.5, tmp_path / "mixed")
    (instruct / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(UserError, match=r"instruct: .*: cannot read model\.safetensors"):
        mix(base, instruct, 0.5, tmp_path / "mixed")


def test_several_ratios_make_a_directory_each(pair: MakePair, tmp_path: Path) -> None:
    base, instruct = map(str, pair())
    run_mix(MixConfig(base=base, instruct=instruct, ratio=(0, 0.25, 1), output_dir=tmp_path / "mixed"))
    assert sorted(path.name for path in (tmp_path / "mixed").iterdir()) == ["ratio-0", "ratio-0.25", "ratio-1"]
    one, other = logits(tmp_path / "mixed/ratio-0"), logits(tmp_path / "mixed/ratio-1")
    assert torch.equal(one, logits(Path(base)))
    assert torch.equal(other, logits(Path(instruct)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ratio": (1.5,)}, "ratio: got 1.5, expected a number from 0 to 1"),
        ({"ratio": (float("nan"),)}, "ratio: got nan, expected"),
        ({"ratio": ()}, "ratio: got none"),
        ({"ratio": (0.1, 0.1)}, "ratio: got 0.1 0.1, expected each once"),
        ({"output_dir": Path(__file__).parent}, "output_dir: .* exists, expected a new directory"),
        ({"base": "/nowhere/model"}, "base: got '/nowhere/model', which does not exist"),
        ({"instruct": "/nowhere/model"}, "instruct: got '/nowhere/model', which does not exist"),
        ({"max_shard_size": "much"}, "max_shard_size: got 'much', expected a size such as 5GB"),
    ],
)
def test_bad_input_is_one_error_that_names_it(
    changes: dict[str, object], message: str, pair: MakePair, tmp_path: Path
) -> None:
    base, instruct = map(str, pair())
    settings = {"base": base, "instruct": instruct, "ratio": (0.5,), "output_dir": tmp_path / "mixed"} | changes
    with pytest.raises(UserError, match=message):
        run_mix(MixConfig(**settings))  # type: ignore[arg-type]
    assert not (tmp_path / "mixed").exists()


@pytest.mark.parametrize("end", [OSError, KeyboardInterrupt])
def test_what_cannot_be_finished_leaves_nothing_behind(
    end: type[BaseException], pair: MakePair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, instruct = pair()
    if end is OSError:
        with files_of_at_most(3000), pytest.raises(UserError, match=r"output_dir: cannot save .*mixed"):
            mix(base, instruct, 0.5, tmp_path / "mixed")
    else:

        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(torch, "lerp", interrupt)
        with pytest.raises(KeyboardInterrupt):
            mix(base, instruct, 0.5, tmp_path / "mixed")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "instruct"]


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{}",
        '{"weight_map": []}',
        '{"weight_map": {"a": 3}}',
        '{"weight_map": {"a": "../model.safetensors"}}',
        '{"weight_map": {"a": "/model.safetensors"}}',
        '{"weight_map": {"a": "\\ud800"}}',
        "[" * 3000,
    ],
)
def test_an_index_that_names_no_files_beside_it_is_one_error(text: str, tmp_path: Path) -> None:
    directory = save_model(tmp_path / "model")
    (directory / "model.safetensors.index.json").write_text(text)
    with pytest.raises(UserError, match=r"^base: .*index\.json.*(has no weight_map with names of files|is not JSON)"):
        WeightFiles(str(directory), "base")

"""GGUF files: tokens as transformers' dequantized model, the file's own tokenizer, and refusals by name."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType as Quantization

from baton.errors import ConfigError
from cluster.ingress.tokenizer import Tokenizer
from cluster.models.model_file import read_model_spec
from tests.gguf_files import write
from tests.unit.model.driver import Driver, Expected, make_spec, prompts_of
from tests.unit.parallel.lone_ranks import LoneRanks
from workers.model.gguf.convert import convert
from workers.model.gguf.folder import gguf_source
from workers.model.loader import load_model
from workers.model.registry import resolve_model
from workers.model.runner import TorchRunner
from workers.spec import GangSpec

PROMPTS = prompts_of(random.Random(5), (1, 7, 16, 33), 256)
NUM_OUTPUTS = 8


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATON_CACHE", str(tmp_path_factory.mktemp("cache")))


def converted(file: Path) -> Path:
    """As `resolve_model` has it done in a process of its own, which takes some seconds to start."""
    folder = file.parent / "converted"
    convert(file, folder, "")
    return folder


def dequantized(file: Path) -> list[Expected]:
    """What transformers' own greedy generate gives of the file itself, in float32."""
    from transformers import AutoModelForCausalLM, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        file.parent,
        gguf_file=file.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
        attn_implementation="eager",
    ).eval()
    found = []
    for prompt in PROMPTS:
        ids = torch.tensor([prompt])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NUM_OUTPUTS, do_sample=False)
        found.append(Expected(out[0, len(prompt) :].tolist(), []))
    return found


@pytest.mark.parametrize("kind", [Quantization.F16, Quantization.Q4_1, Quantization.Q5_1, Quantization.Q8_0])
def test_a_gguf_file_gives_the_tokens_of_transformers_dequantized_model(kind: Quantization, tmp_path: Path) -> None:
    file = write(tmp_path / "model.gguf", kind)
    folder = converted(file)
    runner = TorchRunner(make_spec(folder))
    driver = Driver(runner, seed=1)
    for prompt in PROMPTS:
        driver.add(prompt, NUM_OUTPUTS)
    driver.finish()
    cut = [_until(stream.tokens, runner.eos_token_ids) for stream in driver.streams]
    assert cut == [_until(one.tokens, runner.eos_token_ids) for one in dequantized(file)]
    source = gguf_source(folder)
    assert source is not None
    assert source.quantizations[0] == kind.name


def _until(tokens: list[int], ends: frozenset[int]) -> list[int]:
    """transformers stops at an end token, the driver does not."""
    stop = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
    return tokens[:stop]


def test_tokenizer_template_ends_and_sizes_come_from_the_file(tmp_path: Path) -> None:
    file = write(tmp_path / "model.gguf", Quantization.Q8_0)
    folder = resolve_model(str(tmp_path))  # a folder with one file
    assert folder == resolve_model(str(file))
    tokenizer = Tokenizer(str(folder))
    assert tokenizer.decode(tokenizer.encode("hello there")) == "hello there"
    assert tokenizer.encode("hello", add_special_tokens=False)[0] == 256  # its merge
    assert tokenizer.render_chat([{"role": "user", "content": "hi"}]) == "<user>hi<assistant>"
    generation = json.loads((folder / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [259, 260]  # of a text, and of a turn
    spec = read_model_spec(str(file))  # made once: the folder of the same file serves again
    assert (spec.num_layers, spec.hidden_size, spec.max_model_len) == (2, 64, 128)


def test_a_file_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "model.gguf")
    content = file.read_bytes()
    for size in (0, 3, 100, len(content) - 100):
        file.write_bytes(content[:size])
        with pytest.raises(ConfigError, match=r"model\.gguf is cut short or no GGUF file; fetch it again"):
            converted(file)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"family": "mamba9"}, "is of the GGUF family 'mamba9', which transformers .* cannot read"),
        ({"parts": 3}, "is one of 3 parts; join them"),
        ({"tokenizer": False}, "has no tokenizer that transformers"),
    ],
)
def test_what_transformers_cannot_read_is_refused_by_name(
    fields: dict[str, object], message: str, tmp_path: Path
) -> None:
    file = write(tmp_path / "model.gguf", **fields)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=message):
        converted(file)


def test_an_unknown_quantization_is_refused_by_its_number(tmp_path: Path) -> None:
    file = write(tmp_path / "model.gguf")
    content = file.read_bytes()
    name = b"output.weight"
    at = content.index(name) + len(name) + 4 + 2 * 8  # its dimensions' count and lengths; then its type
    file.write_bytes(content[:at] + (777).to_bytes(4, "little") + content[at + 4 :])
    with pytest.raises(ConfigError, match="quantization number 777, which the package gguf does not know"):
        converted(file)


def test_a_folder_with_several_files_asks_for_one(tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(ConfigError, match="has 2 GGUF files; give one of them"):
        resolve_model(str(tmp_path))


def test_a_missing_file_is_refused() -> None:
    with pytest.raises(ConfigError, match="is no file; give the path of a GGUF file that is there"):
        resolve_model("/nowhere/model.gguf")


def test_a_file_is_refused_by_name_where_ranks_would_divide_it(tmp_path: Path) -> None:
    folder = converted(write(tmp_path / "model.gguf"))
    with pytest.raises(ConfigError, match=r"tensor_parallel: 2 is not supported for GGUF files, .* give a folder with"):
        load_model(replace(make_spec(folder), gang=GangSpec(tensor_parallel=2)), LoneRanks(0, 2))

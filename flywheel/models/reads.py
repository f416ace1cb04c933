"""What a model folder says of how it reads texts, so that a server gives the same vectors: its prompt, its longest text, the
numbers it computes in.
"""

import json
from pathlib import Path
from typing import Any

from flywheel.files import write_json
from flywheel.models.facts import Facts

_STATIC = "sentence_transformers.models.StaticEmbedding"


def write_reading(folder: Path, facts: Facts) -> None:
    """Make a model folder, as `write_model` leaves it, read texts as `facts` says."""
    if facts.prompt_name:
        config = _read(folder / "config_sentence_transformers.json")
        prompts = {**(config.get("prompts") or {}), facts.prompt_name: facts.prompt}
        _change(folder / "config_sentence_transformers.json", prompts=prompts, default_prompt_name=facts.prompt_name)
    if facts.reads is not None:
        _change(folder / "sentence_bert_config.json", max_seq_length=facts.reads)
    if not facts.include_prompt:
        _change(folder / "1_Pooling" / "config.json", include_prompt=False)
    # Heads are made for float32, and halves of another kind would move cosines by hundredths.
    config = _read(folder / "config.json")
    _change(folder / "config.json", **{key: "float32" for key in ("dtype", "torch_dtype") if key in config})
    if facts.kind == "static":
        first, _, *rest = json.loads((folder / "modules.json").read_text())
        modules = [{**each, "idx": i, "name": str(i)} for i, each in enumerate([{**first, "type": _STATIC}, *rest])]
        write_json(folder / "modules.json", modules)


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def _change(file: Path, **changes: Any) -> None:
    before = _read(file)
    if {**before, **changes} != before:
        write_json(file, {**before, **changes})

"""A model folder copied to where others serve it from."""

import shutil
from pathlib import Path

from flywheel.errors import FlywheelError

# What training keeps for itself: scores of a team's own pairs, and the heads that judged them.
KEPT_BACK = ("own_scores.parquet", "folds.safetensors")
_TOKENISER = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model", "config.json")


def check_free(target: Path) -> None:
    """Raise FlywheelError when something is at `target` already."""
    if target.exists():
        raise FlywheelError(f"{target} exists already and was left as it is. Name another folder, or delete it first.")


def copy_model(folder: Path, target: Path) -> None:
    """Copy what a model folder needs to be served into the empty folder `target`; no file is shared with the original."""
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns(*KEPT_BACK), dirs_exist_ok=True)


def copy_tokeniser(folder: Path, target: Path) -> None:
    """Copy what turns texts into token ids."""
    for pattern in _TOKENISER:
        for file in folder.glob(pattern):
            shutil.copyfile(file, target / file.name)

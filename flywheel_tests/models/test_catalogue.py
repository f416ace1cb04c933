"""The catalogue names exact weights, and a variant that exists can be trained."""

import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flywheel.errors import FlywheelError
from flywheel.models.catalogue import CATALOGUE, Variant

variants = st.sampled_from(sorted(CATALOGUE)).flatmap(
    lambda base: st.builds(Variant, st.just(base), st.integers(1, CATALOGUE[base].width))
)


@given(variants)
def test_a_variant_reads_back_from_its_own_text(variant: Variant) -> None:
    assert Variant.parse(str(variant)) == variant
    assert variant.model.name == variant.base


@given(st.text(alphabet="alMin-6v2@0159 /.", max_size=24))
def test_parse_either_refuses_with_one_of_our_errors_or_gives_the_same_text_back(text: str) -> None:
    try:
        variant = Variant.parse(text)
    except FlywheelError:
        return
    assert str(variant) == text


def test_every_base_model_is_pinned_to_a_commit_and_a_hash() -> None:
    for name, model in CATALOGUE.items():
        assert model.name == name
        assert model.hub_id.endswith(f"/{name}")
        assert re.fullmatch(r"[0-9a-f]{40}", model.revision)
        assert re.fullmatch(r"[0-9a-f]{64}", model.weights_sha256 or "")
        assert "Quora" in model.contamination


def test_every_base_model_is_held_against_a_published_vector() -> None:
    for model in CATALOGUE.values():
        assert model.published is not None
        assert model.published.text
        assert len(model.published.numbers) in (5, model.width)
        assert any(model.published.numbers)


def test_an_unknown_base_model_is_refused_with_the_known_ones_named() -> None:
    with pytest.raises(FlywheelError) as caught:
        Variant.parse("text-embedding-3-small@256")
    assert "'text-embedding-3-small'" in str(caught.value)
    assert all(name in str(caught.value) for name in CATALOGUE)


@pytest.mark.parametrize("dim", ["385", "0", "-7"])
def test_a_dimension_out_of_range_is_refused_with_both_numbers(dim: str) -> None:
    with pytest.raises(FlywheelError, match=f"{dim} .*384"):
        Variant.parse(f"all-MiniLM-L6-v2@{dim}")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "@",
        "@256",
        "all-MiniLM-L6-v2",
        "all-MiniLM-L6-v2@",
        "all-MiniLM-L6-v2@x",
        "all-MiniLM-L6-v2@0256",
        "all-MiniLM-L6-v2@256@384",
        " all-MiniLM-L6-v2@256",
        "all-MiniLM-L6-v2@256\n",
        "all-MiniLM-L6-v2@" + "9" * 5000,
    ],
)
def test_a_malformed_variant_is_refused_with_an_example_of_the_form(text: str) -> None:
    with pytest.raises(FlywheelError, match="all-MiniLM-L6-v2@256"):
        Variant.parse(text)


def test_the_hub_id_is_not_a_second_name_of_a_base_model() -> None:
    with pytest.raises(FlywheelError, match="no base model"):
        Variant.parse("BAAI/bge-base-en-v1.5@256")


def test_importing_the_models_room_loads_no_heavy_library() -> None:
    heavy = ("torch", "transformers", "sentence_transformers", "datasets", "huggingface_hub", "dagster", "duckdb")
    code = (
        "import sys, flywheel.models.catalogue, flywheel.models.weights, flywheel.models.encoder, flywheel.models.cache;"
        f"print(sorted(set({heavy!r}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

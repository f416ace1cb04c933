"""Model folders load in the programs that the card names: older versions of Sentence Transformers, and infinity."""

import json
from pathlib import Path

import numpy as np
import pytest

from flywheel.models.encoder import load_encoder
from flywheel.models.features import PARTS, pooled
from flywheel_tests.helpers.foreign import install, run_there
from flywheel_tests.models.test_foreign import MINILM, TEXTS, head, written

pytestmark = [pytest.mark.slow, pytest.mark.long]

_OLD = ["transformers==4.53.3", "tokenizers==0.21.1", "huggingface-hub==0.36.0"]
ENVIRONMENTS = {
    "sentence-transformers 3.4": [
        "sentence-transformers==3.4.1", "transformers==4.48.3", "tokenizers==0.21.0", "huggingface-hub==0.28.1",
    ],
    "sentence-transformers 4.1": ["sentence-transformers==4.1.0", *_OLD],
    "sentence-transformers 5.3": [
        "sentence-transformers==5.3.0", "transformers==4.57.1", "tokenizers==0.22.1", "huggingface-hub==0.36.0",
    ],
    "infinity": ["infinity-emb==0.0.78", "sentence-transformers==3.4.1", *_OLD],
}  # fmt: skip
_PLAIN = """
import json, sys
import numpy as np
from sentence_transformers import SentenceTransformer
folders, texts = json.loads(sys.argv[1])
for folder in folders:
    np.save(folder + ".npy", SentenceTransformer(folder, device="cpu").encode(texts))
"""
_INFINITY = """
import asyncio, json, sys
import numpy as np
from infinity_emb import AsyncEmbeddingEngine, EngineArgs
async def embed(folder, texts):
    plain = {"engine": "torch", "device": "cpu", "dtype": "float32", "bettertransformer": False, "model_warmup": False}
    engine = AsyncEmbeddingEngine.from_args(EngineArgs(model_name_or_path=folder, **plain))
    async with engine:
        return (await engine.embed(sentences=texts))[0]
folders, texts = json.loads(sys.argv[1])
for folder in folders:
    np.save(folder + ".npy", np.array(asyncio.run(embed(folder, texts))))
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, np.ndarray]:
    """A folder with one pooling and one with three, and the vectors that training and evaluation give the texts."""
    features = pooled(load_encoder(MINILM, "cpu"), TEXTS, PARTS)
    place = tmp_path_factory.mktemp("models")
    heads = {"one": head("mean"), "three": head(*PARTS)}
    return {written(place / name, model): model.apply(features) for name, model in heads.items()}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_a_program_that_is_not_ours_gives_the_vectors_that_were_evaluated(
    name: str, folders: dict[Path, np.ndarray], tmp_path: Path
) -> None:
    environment = install(tmp_path / "packages", [*ENVIRONMENTS[name], "datasets==4.0.0"])
    script = _INFINITY if name == "infinity" else _PLAIN
    run_there(environment, script, json.dumps([[str(folder) for folder in folders], TEXTS]), where=tmp_path)
    for folder, expected in folders.items():
        vectors = np.load(f"{folder}.npy")
        assert vectors.shape == expected.shape
        difference = float(np.abs(vectors @ vectors.T - expected @ expected.T).max())
        print(f"{name}, {folder.name} pooling: largest difference of a cosine {difference:.1e}")
        assert difference < 1e-5

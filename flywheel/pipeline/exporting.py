"""The champion, or another model, for programs that are not ours: copied, as a graph, on a hub, in MLflow."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from flywheel.errors import FlywheelError
from flywheel.files import open_to_all, publish, scratch_folder, write_json
from flywheel.models.encoder import quiet_transformers
from flywheel.models.exports.folder import check_free, copy_model, copy_tokeniser
from flywheel.models.exports.graph import batches, torch_engine
from flywheel.models.exports.hub import push_to_hub
from flywheel.models.exports.mlflow import log_to_mlflow
from flywheel.models.exports.onnx import onnx_engine, write_int8, write_onnx
from flywheel.models.exports.openvino import openvino_engine, write_openvino
from flywheel.models.folder import loaders, loading_code, open_model
from flywheel.pairs.snapshots.snapshot import Snapshot, unique_texts
from flywheel.pipeline.evaluation import snapshot_of
from flywheel.pipeline.export_card import graph_card, loading_lines
from flywheel.pipeline.parity import TORCH, Parity, instruction_set, measure_parity
from flywheel.pipeline.workspace import Workspace
from flywheel.training.model import TrainedModel

GRAPHS = ("onnx", "openvino")
_MAX_DIFFERENCE = 1e-3  # of a cosine, in float32
_IMPORT = "from sentence_transformers import SentenceTransformer\n"
OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Export:
    """What was exported where, who loads it with which lines, and for a graph what was measured.

    `reports` are of float32 and, where it was tried, int8; `kept` says of each whether its file is in the folder.
    """

    model: str
    variant: str
    place: str
    threshold: float
    loaders: str
    loading: str
    reports: tuple[Parity, ...] = ()
    kept: tuple[bool, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        reports = [
            {**asdict(report), "kept": kept, "threshold": report.rule.threshold}
            for report, kept in zip(self.reports, self.kept, strict=True)
        ]
        return {**asdict(self), "reports": reports, "kept": None, "instruction_set": instruction_set() if reports else None}


def model_to_export(workspace: Workspace, name: str | None) -> TrainedModel:
    """The model of a folder's name, the champion without one. Raises FlywheelError when there is none."""
    if name is None:
        champion = workspace.registry.champion()
        if champion is None:
            raise FlywheelError("There is no champion yet. Name a trained model with --model.")
        name = champion.model
    if Path(name).name != name or not (folder := workspace.trained.find(name)).is_dir():
        raise FlywheelError(f"There is no model {name!r} in {workspace.home.models}. Name one of the folders in there.")
    return TrainedModel.load(folder)


def export_folder(workspace: Workspace, model: TrainedModel, target: Path | None) -> Export:
    """Copy the model's folder to `target`, by default to the home's exports. Raises FlywheelError when something is there."""
    target = target or workspace.home.exports / model.name
    check_free(target)
    with scratch_folder(target.parent) as scratch:
        copy_model(model.folder, scratch)
        open_to_all(scratch)
        publish(scratch, target)
    return _described(model, str(target))


def export_graph(workspace: Workspace, model: TrainedModel, form: str, target: Path | None, progress: OnProgress) -> Export:
    """Write the model as one graph in `form` (onnx or openvino), held against torch on the snapshot's calibration pairs.

    An int8 file is kept beside the one in float32 where it is quicker on this machine and at most 0.2 % of the decisions
    differ. Raises FlywheelError when something is at `target`, the model's snapshot is gone, or the graph gives other vectors.
    """
    target = target or workspace.home.exports / f"{model.name}-{form}"
    check_free(target)
    pairs = _pairs(snapshot_of(workspace, model))
    with scratch_folder(target.parent) as scratch:
        exported = _write_graph(model, form, pairs, scratch, progress)
        record = {**exported.to_json(), "place": None}
        write_json(scratch / "parity.json", record)
        (scratch / "README.md").write_text(graph_card(model, form, exported.reports, exported.kept, exported.loading), "utf-8")
        open_to_all(scratch)
        publish(scratch, target)
    return Export(**{**vars(exported), "place": str(target), "loading": exported.loading.replace("FOLDER", str(target))})


def export_to_hub(model: TrainedModel, repository: str | None) -> Export:
    """Upload the model's folder to a Hugging Face repository. Raises FlywheelError as `push_to_hub` does."""
    if repository is None:
        raise FlywheelError("A model on the hub needs the name of its repository. Give --name OWNER/NAME.")
    address = push_to_hub(model.folder, repository, f"{model.job.variant}, flywheel model {model.name}")
    return _described(model, address, repository)


def export_to_mlflow(workspace: Workspace, model: TrainedModel, name: str | None) -> Export:
    """Log the model's folder to MLflow and register it. Raises FlywheelError as `log_to_mlflow` does."""
    champion = workspace.registry.champion()
    figures = {"threshold": model.rule.threshold, "calibration_set_error": model.calibration_set_error}
    is_champion = champion is not None and champion.model == model.name
    if champion is not None and is_champion:
        figures["error"] = champion.error
    tags = {"variant": model.job.variant, "flywheel_model": model.name, "snapshot_id": model.job.snapshot_id}
    address = log_to_mlflow(model.folder, name or "flywheel", figures, tags, is_champion)
    fetched = f'mlflow.artifacts.download_artifacts("{address}")'
    code = loading_code(model.folder).replace('"path/to/this/folder"', fetched)
    lines = f"import mlflow\n{_IMPORT}\nmodel = {code}"
    return Export(model.name, model.job.variant, address, model.rule.threshold, loaders(model.folder), lines)


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Keep the exporters' advice to their own developers off the terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _described(model: TrainedModel, place: str, loaded_from: str | None = None) -> Export:
    code = loading_code(model.folder).replace("path/to/this/folder", loaded_from or place)
    return Export(
        model.name, model.job.variant, place, model.rule.threshold, loaders(model.folder), f"{_IMPORT}\nmodel = {code}"
    )


def _pairs(snapshot: Snapshot) -> pd.DataFrame:
    """The pairs whose decisions are compared: calibration, or the labelled pairs of every fold."""
    return snapshot.judging_pairs() if snapshot.is_cross_fitted else snapshot.pairs("calibration")


def _write_graph(model: TrainedModel, form: str, pairs: pd.DataFrame, folder: Path, progress: OnProgress) -> Export:
    encoder = open_model(model.folder, "cpu").float().eval()
    copy_tokeniser(model.folder, folder)
    progress(f"writing {form}", 0, 1)
    files = {f"{form} float32": folder / ("model.onnx" if form == "onnx" else "model.xml")}
    with quiet_transformers(), _without_warnings():
        if form == "onnx":
            write_onnx(encoder, folder / "model.onnx")
            write_int8(folder / "model.onnx", folder / "model_int8.onnx")
            files["onnx int8"] = folder / "model_int8.onnx"
        else:
            write_openvino(encoder, folder / "model.xml")
    progress(f"writing {form}", 1, 1)
    engine_of = onnx_engine if form == "onnx" else openvino_engine
    engines = {TORCH: torch_engine(encoder), **{name: engine_of(file) for name, file in files.items()}}
    texts = unique_texts(pairs)
    listener: Callable[[int, int], None] = lambda done, of: progress("comparing texts", done, of)  # noqa: E731
    _, exact, *rounded = measure_parity(model, pairs, texts, batches(encoder, texts), engines, listener)
    if not exact.largest_difference <= _MAX_DIFFERENCE:  # so that no number counts as too far
        raise FlywheelError(
            f"{form} gives other vectors than the model: a cosine differs by {exact.largest_difference:.2g}. Nothing was "
            "written. Export the folder itself, with --to FOLDER."
        )
    kept = [each.keeps_decisions and each.speed > exact.speed for each in rounded]
    for each, keep in zip(rounded, kept, strict=True):
        if not keep:
            files[each.engine].unlink()
    lines = loading_lines(form, encoder.max_seq_length, "model.onnx" if form == "onnx" else "model.xml")
    who = "It loads with " + ("ONNX Runtime" if form == "onnx" else "OpenVINO") + ", without torch."
    return Export(
        model.name, model.job.variant, str(folder), model.rule.threshold, who, lines, (exact, *rounded), (True, *kept)
    )

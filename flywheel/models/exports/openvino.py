"""A model as an OpenVINO file, by OpenVINO's own converter."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from flywheel.errors import FlywheelError, needs_extra, one_line
from flywheel.models.exports.graph import OUTPUT, Engine, example_of, graph_of

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_PURPOSE = "Export to OpenVINO"


def write_openvino(model: "SentenceTransformer", file: Path) -> None:
    """Write the model as one graph in float32, for any number of texts of any length: `file`.xml and its weights in .bin.

    Raises FlywheelError for an architecture that OpenVINO cannot convert.
    """
    with needs_extra("openvino", _PURPOSE):
        import openvino

    try:
        with _root_logger_as_it_is():
            converted = openvino.convert_model(graph_of(model), example_input=example_of(model))
    except Exception as error:  # its converter raises whatever it meets
        raise FlywheelError(
            f"OpenVINO cannot convert this architecture ({one_line(error)}). Nothing was written. Export it with --to onnx."
        ) from error
    converted.outputs[0].get_tensor().set_names({OUTPUT})
    openvino.save_model(converted, file, compress_to_fp16=False)


@contextmanager
def _root_logger_as_it_is() -> Iterator[None]:
    """The converter leaves the root logger at ERROR, for the whole process, when it fails."""
    root = logging.getLogger()
    level, filters, handlers = root.level, root.filters[:], root.handlers[:]
    try:
        yield
    finally:
        root.setLevel(level)
        root.filters, root.handlers = filters, handlers


def openvino_engine(file: Path) -> Engine:
    """What OpenVINO makes of a batch, on the CPU and in float32."""
    with needs_extra("openvino", _PURPOSE):
        import openvino

    compiled = openvino.compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda tokens: compiled(tokens)[0]

"""A model as an ONNX file, by torch's own exporter, and in int8 by ONNX Runtime's dynamic quantisation."""

from pathlib import Path
from typing import TYPE_CHECKING

from flywheel.errors import needs_extra
from flywheel.models.exports.graph import INPUTS, OUTPUT, Engine, example_of, graph_of

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_PURPOSE = "Export to ONNX"


def write_onnx(model: "SentenceTransformer", file: Path) -> None:
    """Write the model as one graph in float32, for any number of texts of any length."""
    with needs_extra("onnx", _PURPOSE):
        import onnx  # noqa: F401  (torch's exporter says less plainly what it misses)
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    import torch

    example = example_of(model)
    with torch.inference_mode():
        torch.onnx.export(
            graph_of(model), kwargs=example, f=file, input_names=INPUTS, output_names=[OUTPUT], dynamo=True,
            dynamic_shapes={name: {0: "texts", 1: "tokens"} for name in INPUTS}, external_data=False, verbose=False,
        )  # fmt: skip


def write_int8(source: Path, target: Path) -> None:
    """Write an ONNX file's graph with weights in int8 and activations that are quantised as they come.

    Weights use seven bits: on processors without VNNI, sums of products of eight bits overflow.
    """
    with needs_extra("onnx", _PURPOSE):
        from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(source, target, per_channel=True, reduce_range=True, weight_type=QuantType.QInt8)


def onnx_engine(file: Path) -> Engine:
    """What ONNX Runtime makes of a batch, on the CPU."""
    with needs_extra("onnx", _PURPOSE):
        import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda tokens: session.run([OUTPUT], tokens)[0]

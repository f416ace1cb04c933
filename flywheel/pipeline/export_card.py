"""The card of an exported graph: how to load it, and how it compares with the model that was judged."""

from collections.abc import Sequence

from flywheel.pipeline.parity import MAX_FLIPS, Parity, instruction_set
from flywheel.training.model import TrainedModel

_LOADING = {
    "onnx": """import onnxruntime
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
session = onnxruntime.InferenceSession("FOLDER/{file}")
tokens = tokenizer(["how do I reset my password"], padding=True, truncation=True, max_length={length}, return_tensors="np")
vectors = session.run(None, {{name: tokens[name] for name in ("input_ids", "attention_mask")}})[0]""",
    "openvino": """import openvino
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
model = openvino.compile_model("FOLDER/{file}", "CPU", {{"INFERENCE_PRECISION_HINT": "f32"}})
tokens = tokenizer(["how do I reset my password"], padding=True, truncation=True, max_length={length}, return_tensors="np")
vectors = model({{name: tokens[name] for name in ("input_ids", "attention_mask")}})[0]""",
}


def loading_lines(form: str, length: int | None, file: str) -> str:
    """The lines of Python that turn texts into vectors with an exported graph, of which FOLDER is the place."""
    return _LOADING[form].format(file=file, length=length)


def graph_card(model: TrainedModel, form: str, reports: Sequence[Parity], kept: Sequence[bool], loading: str) -> str:
    """The README of an exported graph, in Markdown."""
    code = "\n".join(f"    {line}".rstrip() for line in loading.replace("FOLDER", "path/to/this/folder").splitlines())
    rows = "\n".join(
        f"| {each.engine} | {each.largest_difference:.1e} | {each.flips} of {each.pairs:,} | {each.speed:.2f} | "
        f"{each.texts_per_second:,.0f} | {each.rule.threshold:.4f} |"
        for each in reports
    )
    remarks = [verdict(each, keep, reports[0]) for each, keep in zip(reports[1:], kept[1:], strict=True)]
    return (
        f"""# {model.job.variant}, fine-tuned by flywheel, as {form}

One graph: `input_ids` and `attention_mask` (texts, tokens) give `sentence_embedding` (texts, dimensions), of length 1.
Prompts of the base model, if it has any, are not in the graph.

Flywheel's model `{model.name}`, snapshot `{model.job.snapshot_id}`.

{code}

Two texts mean the same when the cosine of their vectors is at least **{model.rule.threshold:.4f}**.

Compared with the model itself in torch, on {reports[0].texts:,} texts of the calibration pairs, on a processor with \
{instruction_set()}:

| engine | largest difference of a cosine | decisions that differ | speed, times torch | texts a second | threshold |
|---|---:|---:|---:|---:|---:|
{rows}

{" ".join(remarks)}
""".rstrip()
        + "\n"
    )


def verdict(report: Parity, kept: bool, exact: Parity) -> str:
    """Why an int8 file is in the folder or not, as a sentence."""
    share = f"{100 * report.flips / max(1, report.pairs):.2f} % of the decisions differ"
    if kept:
        return (
            f"`model_int8.onnx` is the same in int8: {report.speed / exact.speed:.1f} times as fast here, and {share}, with a "
            f"threshold of its own, **{report.rule.threshold:.4f}**."
        )
    if not report.keeps_decisions:
        return f"There is no int8 file: {share}, and at most {100 * MAX_FLIPS:g} % may."
    return f"There is no int8 file: it is {report.speed / exact.speed:.2f} times as fast as float32 on this processor."

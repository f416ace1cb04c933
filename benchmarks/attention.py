"""What the fused attention of torch costs a training step on this CPU, against attention step by step.

    python benchmarks/attention.py [--base B]

One forward and backward pass over a batch of texts of so many tokens; processor seconds of the faster of some passes, the two
kinds taking turns. Where the ratio is above 1 the fused one is slower.
"""

import argparse
import time
from contextlib import nullcontext
from typing import Any

import torch
from quora import machine, row

from flywheel.models.catalogue import CATALOGUE
from flywheel.models.encoder import load_encoder

SHAPES = ((128, 14), (128, 26), (32, 100))
PASSES = 4


def main() -> None:
    """Print a line of a Markdown table for each shape and number format."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="all-MiniLM-L6-v2")
    base = CATALOGUE[parser.parse_args().base]
    models: dict[str, Any] = {kind: load_encoder(base, "cpu")[0].auto_model for kind in ("sdpa", "eager")}
    for kind, model in models.items():
        model.set_attn_implementation(kind)
    print(f"{base.name} on {machine('cpu')}\n")
    print(row("texts x tokens", "numbers", "fused, CPU s", "step by step, CPU s", "ratio"))
    print(row("---", "---", "---:", "---:", "---:"))
    for shape in SHAPES:
        for halved in (True, False):
            best = dict.fromkeys(models, float("inf"))
            for _ in range(PASSES):
                for kind, model in models.items():
                    best[kind] = min(best[kind], seconds(model, shape, halved))
            fused, plain = best["sdpa"], best["eager"]
            numbers = "bfloat16" if halved else "float32"
            print(row(f"{shape[0]} x {shape[1]}", numbers, f"{fused:.2f}", f"{plain:.2f}", f"{fused / plain:.2f}"), flush=True)


def seconds(model: Any, shape: tuple[int, int], halved: bool) -> float:
    """Processor seconds of a pass there and back."""
    ids, mask = torch.randint(1_000, 20_000, shape), torch.ones(shape, dtype=torch.long)
    mask[::2, -3:] = 0
    started = time.process_time()
    with torch.autocast("cpu", torch.bfloat16) if halved else nullcontext():
        loss = model(input_ids=ids, attention_mask=mask).last_hidden_state.float().mean()
    loss.backward()
    return time.process_time() - started


if __name__ == "__main__":
    main()

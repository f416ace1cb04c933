"""What a home holds after many turns: each takes in new pairs, retrains, judges and keeps house, by Dagster's own jobs.

    python benchmarks/growth.py --home HOME --out growth.json [--turns 200] [--pairs 20]

HOME is a home after `flywheel demo`. The first time it is copied to OUT's folder, later the same command goes on where it was.
A turn brings pairs of new wordings of known questions, waits for no sensor, and lets housekeeping run as it does each night.
"""

import argparse
import json
import shutil
import time
from pathlib import Path

import pandas as pd
from quora import row

from flywheel.home import Home
from flywheel.orchestration.build import build_defs
from flywheel.orchestration.instance import open_session
from flywheel.orchestration.materialise import silence_dagster
from flywheel.settings import load_settings

JOBS = ("ingest", "retrain", "housekeeping")
PARTS = {
    "store": ["flywheel.duckdb*"],
    "snapshots": ["snapshots/**/*"],
    "models": ["models/**/*"],
    "cached vectors": ["cache/**/*"],
    "records": ["evaluations/**/*"],
    "history": ["registry/**/*"],
    "inbox": ["inbox/**/*"],
    "dagster": ["dagster/**/*"],
    "page": ["evidence/**/*", "*.html", "*.md", "*.png"],
}


def main() -> None:
    """Turn, keep the sizes after each turn, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("growth.json"))
    parser.add_argument("--turns", type=int, default=200)
    parser.add_argument("--pairs", type=int, default=20)
    arguments = parser.parse_args()
    home = arguments.out.absolute().with_suffix("") / "home"
    if not home.exists():
        shutil.copytree(arguments.home, home)
    sizes = json.loads(arguments.out.read_text()) if arguments.out.exists() else [measured(home)]
    silence_dagster()
    with open_session(load_settings(home)) as session:
        jobs = [build_defs(home).resolve_job_def(name) for name in JOBS]
        while len(sizes) <= arguments.turns:
            began = time.perf_counter()
            bring(home, session.workspace.current_snapshot().pairs("train"), len(sizes), arguments.pairs)
            for job in jobs:
                job.execute_in_process(instance=session.instance)
            sizes.append({**measured(home), "seconds": time.perf_counter() - began})
            arguments.out.write_text(json.dumps(sizes))
    print(report(sizes))


def bring(home: Path, known: pd.DataFrame, turn: int, pairs: int) -> None:
    """Put a file of pairs into the inbox: other wordings of both questions of known pairs, with the same labels."""
    chosen = known.sample(pairs, random_state=turn)
    lines = [
        json.dumps({"text_a": f"{a} (asked in week {turn})", "text_b": b, "label": int(label)})
        for a, b, label in zip(chosen["text_a"], chosen["text_b"], chosen["label"], strict=True)
    ]
    file = Home(home).inbox / f"week-{turn}.jsonl"
    file.with_suffix(".tmp").write_text("\n".join(lines))
    file.with_suffix(".tmp").rename(file)


def measured(home: Path) -> dict[str, float]:
    """Megabytes of each part, a file with several names counted once, and how many files there are."""
    seen: set[int] = set()
    found: dict[str, float] = {}

    def size(path: Path) -> int:
        stat = path.lstat()
        if stat.st_ino in seen:
            return 0
        seen.add(stat.st_ino)
        return stat.st_size

    for part, patterns in PARTS.items():
        files = [path for pattern in patterns for path in home.glob(pattern) if path.is_file()]
        found[part] = sum(map(size, files)) / 1e6
    everything = [path for path in home.rglob("*") if path.is_file()]
    found["else"] = sum(map(size, everything)) / 1e6
    return {**found, "files": len(everything)}


def report(sizes: list[dict[str, float]]) -> str:
    """The sizes after some of the turns."""
    last = len(sizes) - 1
    turns = sorted({0, min(1, last), *(round(last * share) for share in (0.05, 0.1, 0.25, 0.5, 0.75, 1))})
    lines = [row("after turn", *turns), row("---", *["---:"] * len(turns))]
    for part in (*PARTS, "else"):
        lines.append(row(f"{part}, MB", *(f"{sizes[turn][part]:.2f}" for turn in turns)))
    lines.append(row("all, MB", *(f"{sum(sizes[turn][part] for part in (*PARTS, 'else')):.1f}" for turn in turns)))
    lines.append(row("files", *(f"{sizes[turn]['files']:,.0f}" for turn in turns)))
    lines.append(row("seconds of the turn", *(f"{sizes[turn].get('seconds', 0):.1f}" for turn in turns)))
    return "\n".join(lines)


if __name__ == "__main__":
    main()

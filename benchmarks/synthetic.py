"""Made-up interactions in any number: topics of forty questions each, labels and clicks within a topic, some across."""

import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

_WORDS = """
    reset password login account change email invoice order refund cancel plan upgrade team member invite export data key limit
    error page slow mobile sync backup restore delete share link folder file upload download print report chart filter sort
    search result notification alert schedule calendar meeting room video audio camera screen keyboard battery charger cable
"""
WORDS = _WORDS.split()
PER_TOPIC = 40
START = datetime(2026, 1, 1, tzinfo=UTC)


def question(topic: int, wording: int) -> str:
    """One of the forty wordings of a topic."""
    rng = random.Random(topic * PER_TOPIC + wording)
    return f"how do i {' '.join(rng.choices(WORDS, k=rng.randint(4, 9)))} {topic}-{wording}"


def write_interactions(path: Path, lines: int, cross_topic: float = 0.05, seed: int = 0, topics: int | None = None) -> None:
    """`lines` JSON lines: 60 % labels, 25 % clicks, 10 % skips, 5 % thumbs; about eighty a topic unless `topics` says else."""
    rng = random.Random(seed)
    topics = topics or max(1, lines // 80)
    cached: dict[int, str] = {}

    def text(topic: int) -> str:
        wording = rng.randrange(PER_TOPIC)
        key = topic * PER_TOPIC + wording
        if key not in cached:
            if len(cached) > 200_000:
                cached.clear()
            cached[key] = question(topic, wording)
        return cached[key]

    with path.open("w") as file:
        for i in range(lines):
            topic = rng.randrange(topics)
            other = rng.randrange(topics) if rng.random() < cross_topic else topic
            a, b, kind = text(topic), text(other), rng.random()
            event: dict[str, object] = {"event_id": f"e{seed}-{i}", "user": f"u{rng.randrange(lines // 20 + 1)}",
                     "time": (START + timedelta(seconds=i * 2)).isoformat()}  # fmt: skip
            if kind < 0.6:
                event |= {"text_a": a, "text_b": b, "label": int(other == topic and rng.random() < 0.6)}
            elif kind < 0.95:
                event |= {"type": "click" if kind < 0.85 else "skip", "query": a, "shown": b, "position": rng.randint(1, 10),
                          "model": "m1"}  # fmt: skip
            else:
                event |= {"type": "thumb", "query": a, "answer": b, "thumb": "up" if other == topic else "down"}
            file.write(json.dumps(event) + "\n")

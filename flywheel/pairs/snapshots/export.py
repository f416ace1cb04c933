"""Take a snapshot: draw what is due, freeze it, export all splits."""

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import duckdb

from flywheel.errors import FlywheelError
from flywheel.files import digest, publish, scratch_folder, write_json
from flywheel.pairs.snapshots.enough import Missing, SplitRules
from flywheel.pairs.snapshots.folder import Snapshots
from flywheel.pairs.snapshots.folds import Folds, fold
from flywheel.pairs.snapshots.snapshot import DRAW_AGAIN, MANIFEST, SPLITS, Snapshot
from flywheel.pairs.snapshots.splits import check_fresh, draw, is_drawn, reason_frozen, release
from flywheel.pairs.snapshots.tables import content_hash, spell, sum_up_judging, summarise, write_tables
from flywheel.pairs.store.components import FROZEN
from flywheel.pairs.store.duckdb_file import Store
from flywheel.pairs.store.new_pairs import count_trainable
from flywheel.pairs.store.sql import SPELLINGS, connect

Judged = Callable[[frozenset[str]], bool]


class _NothingBetterError(Exception):
    """Frozen splits that carry no verdict cannot be drawn again yet: what that takes."""

    def __init__(self, missing: Missing) -> None:
        super().__init__(missing.why)
        self.missing = missing


def take_snapshot(
    store: Store,
    snapshots: Snapshots,
    rules: SplitRules,
    new_test: bool = False,
    judged: Judged = lambda _: False,
) -> Snapshot:
    """Draw what is due, freeze it, and export all splits; equal content gives the same snapshot.

    The draw is stored in the same transaction that reads the rows, so a kill leaves either no draw or one that the next
    call exports. Before anything is drawn, a snapshot is cross-fitted where its labelled pairs can judge so (`fold`).
    `new_test` draws a new version of the frozen splits from everything that does not train, its test from pairs that no
    earlier version held. Raises FlywheelError, with nothing changed, when there are too few of those.

    Frozen splits that carry no verdict are drawn again where nothing was `judged` on them (it is asked with the ids of their
    pairs) and a draw can judge. Else they stay, new labelled pairs wait, and `missing` says what leads on.
    """
    with scratch_folder(snapshots.folder) as folder:
        try:
            exported = _draw_and_export(store, folder, rules, new_test, judged)
        except _NothingBetterError as error:
            exported = _draw_and_export(store, folder, rules, new_test, judged, error.missing)
        hashes = {name: content_hash(folder / f"{name}.parquet") for name in SPLITS}
        test_id = digest("|".join(hashes[name] for name in FROZEN))
        if exported.folds:
            test_id = content_hash(folder / "train.parquet", judging_only=True)
        snapshot_id = digest(f"{hashes['train']}|{test_id}")
        with connect(memory_limit=snapshots.memory_limit, temp_directory=folder.parent / f"{folder.name}.spill") as db:
            summaries = {name: asdict(summarise(db, folder / f"{name}.parquet")) for name in hashes}
            judging = sum_up_judging(db, folder, exported.folds > 0)
        manifest = {
            "snapshot_id": snapshot_id,
            "test_id": test_id,
            "folds": exported.folds,
            "seeds": exported.seeds,
            "missing": {source: asdict(lack) for source, lack in exported.missing.items()},
            "note": exported.note,
            "judging": asdict(judging),
            **summaries,
        }
        write_json(folder / MANIFEST, manifest)
        if shared := Snapshot.load(folder).shared_questions():
            raise FlywheelError(
                f"{shared} questions are in two splits, so no snapshot was made: the store is damaged. Move it away and "
                "ingest again."
            )
        target = snapshots.folder / snapshot_id
        if target.exists() and not _is_whole(target):
            shutil.rmtree(target)
        publish(folder, target)
        if (folder / MANIFEST).exists():  # it was there already: what is missing may have changed where the pairs have not
            (folder / MANIFEST).replace(target / MANIFEST)
    with store.transaction() as db:
        db.execute("DELETE FROM snapshots WHERE snapshot_id = ?", [snapshot_id])
        db.execute("INSERT INTO snapshots VALUES (?, ?)", [snapshot_id, exported.trainable])
    taken = Snapshot.load(target)
    snapshots.make_latest(taken)
    return taken


@dataclass(frozen=True)
class _Exported:
    """What an export found beside the rows."""

    folds: int
    missing: dict[str, Missing]
    note: str
    seeds: list[str]
    trainable: int


def _draw_and_export(
    store: Store, folder: Path, rules: SplitRules, new_test: bool, judged: Judged, better: Missing | None = None
) -> _Exported:
    """Draw and write the files, in one transaction; `better` is what a new draw of splits without a verdict is missing."""
    with store.transaction() as db:
        reason = None if new_test else reason_frozen(db, rules)
        again = reason is not None and better is None and not judged(_frozen_ids(db))
        if new_test or again:
            release(db, retire=new_test)
        missing = draw(db, rules, hold=reason is not None and not again)
        if new_test:
            check_fresh(db, missing)
        _freeze(db)
        if again and (not is_drawn(db, now=True) or reason_frozen(db, rules)):
            raise _NothingBetterError(missing["interaction"])
        held = {name for (name,) in db.execute("SELECT DISTINCT if(seed, 'seed', 'interaction') FROM pairs").fetchall()}
        missing = {source: lack for source, lack in missing.items() if source in held}
        note = ""
        if reason:
            fixed = f"The calibration and test pairs that were fixed carry no verdict: {reason}."
            if again:
                note = f"{fixed} Nothing was decided on them, so they were drawn again."
            elif reason_frozen(db, rules):
                decided = Missing("Decisions were made on them, so they stay; new labelled pairs wait.", DRAW_AGAIN)
                lack = better or decided
                missing["interaction"] = Missing(f"{fixed} {lack.why}", lack.remedy)
        spell(db, rules.window_days)
        folds = Folds(0, None)
        if not is_drawn(db):
            folds = fold(db, rules)
            missing = {"interaction": folds.missing} if folds.missing else missing
        write_tables(db, folder, folds.count > 0)
        seeds = db.execute("SELECT DISTINCT split_part(file, ' ', 1) FROM batches WHERE source = 'seed' ORDER BY 1").fetchall()
        return _Exported(folds.count, missing, note, [row[0] for row in seeds], count_trainable(db))


def _frozen_ids(db: duckdb.DuckDBPyConnection) -> frozenset[str]:
    return frozenset(row[0] for row in db.execute("SELECT hex_of(pair_id) FROM frozen_pairs").fetchall())


def _is_whole(folder: Path) -> bool:
    try:
        return Snapshot.load(folder).shared_questions() == 0
    except FlywheelError:
        return False


def _freeze(db: duckdb.DuckDBPyConnection) -> None:
    """Keep the drawn pairs as they are now. The text of a question is the least of the spellings seen."""
    db.execute(
        f"""CREATE OR REPLACE TEMP TABLE texts AS
           SELECT question, min(text) AS text FROM {SPELLINGS} GROUP BY question"""
    )
    db.execute(
        """INSERT INTO frozen_pairs BY NAME
           SELECT p.pair_id, question_a, question_b, a.text AS text_a, b.text AS text_b, label, weight, kind,
               if(seed, 'seed', 'interaction') AS source, split, component
           FROM frozen_now p JOIN texts a ON a.question = question_a JOIN texts b ON b.question = question_b"""
    )

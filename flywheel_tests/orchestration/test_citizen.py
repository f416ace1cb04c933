"""In somebody else's Dagster: beside other assets and other flywheels, and what the UI then knows of each asset."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest
from safetensors.numpy import load_file, save_file

from flywheel.errors import FlywheelError, TryAgainError
from flywheel.orchestration import flywheel
from flywheel.orchestration.assets import promote, train
from flywheel.orchestration.build import build_defs
from flywheel.orchestration.failures import sentence_of
from flywheel.orchestration.instance import Session
from flywheel.orchestration.materialise import materialise
from flywheel.orchestration.resources import WorkspaceResource
from flywheel.pairs.store.new_pairs import new_pairs
from flywheel.pipeline import evaluation as measuring
from flywheel.pipeline.ingest import ingest_paths
from flywheel.training.options import GridOptions
from flywheel_tests.conftest import copy_home
from flywheel_tests.helpers.clumps import clump_world
from flywheel_tests.helpers.homes import make_workspace, with_options, write_a_pair


@dg.asset
def pairs() -> None:
    """Their own."""


def theirs() -> dg.Definitions:
    return dg.Definitions(
        assets=[pairs],
        jobs=[dg.define_asset_job("ingest", selection=[pairs])],
        resources={"workspace": dg.ResourceDefinition.hardcoded_resource("theirs")},
        executor=dg.multiprocess_executor,
    )


def test_two_flywheels_and_somebody_elses_assets_share_a_code_location(tmp_path: Path) -> None:
    ours = [
        build_defs(tmp_path / name, key_prefix=[name, "nlp"], group_prefix=f"{group}/")
        for name, group in (("search", "search"), ("help-desk", "help_desk"))
    ]
    merged = dg.Definitions.merge(theirs(), *ours)
    dg.Definitions.validate_loadable(merged)
    assert merged.executor is dg.multiprocess_executor
    graph = merged.resolve_asset_graph()
    assert {key.path[0] for key in graph.get_all_asset_keys()} == {"pairs", "search", "help-desk"}
    node = graph.get(dg.AssetKey(["help-desk", "nlp", "snapshot"]))
    assert node.group_name == "help_desk/ingest"
    assert node.parent_keys == {dg.AssetKey(["help-desk", "nlp", "pairs"])}
    jobs = {job.name for job in merged.resolve_all_job_defs()}
    assert {"ingest", "search_nlp_retrain", "help_desk_nlp_retrain"} <= jobs
    stores = {pool for key in graph.get_all_asset_keys() for pool in graph.get(key).pools or ()}
    assert stores == {"gpu", "api", "search_nlp_store", "help_desk_nlp_store"}


def test_what_the_caller_says_is_what_dagster_gets(tmp_path: Path) -> None:
    made = build_defs(
        tmp_path, owners=["team:search"], pools={"gpu": "cards", "api": None}, sensors=False, schedule=False, resource="home",
    )  # fmt: skip
    graph = made.resolve_asset_graph()
    assert {tuple(graph.get(key).owners) for key in graph.get_all_asset_keys()} == {("team:search",)}
    assert {pool for key in graph.get_all_asset_keys() for pool in graph.get(key).pools or ()} == {"cards", "store"}
    assert {sensor.default_status for sensor in made.sensors or ()} == {dg.DefaultSensorStatus.STOPPED}
    assert made.resolve_schedule_def("weekly_retrain").default_status == dg.DefaultScheduleStatus.STOPPED
    assert list(made.resources or ()) == ["home"]
    assert made.executor is None
    assert build_defs(tmp_path, executor=dg.in_process_executor).executor is dg.in_process_executor


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"home": "data"}, "'data' is no absolute path: give its whole path"),
        ({"pools": {"cpu": "cpus"}}, r"There is no pool cpu\. Name gpu, api or store\."),
    ],
)
def test_a_wrong_argument_is_one_sentence(tmp_path: Path, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(FlywheelError, match=said):
        build_defs(**{"home": tmp_path, **arguments})


def test_loading_reads_the_homes_file_and_nothing_of_the_environment_or_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    home, here = tmp_path / "home", tmp_path / "here"
    for folder in (home, here):
        folder.mkdir()
    (home / "flywheel.toml").write_text('[grid]\nsizes = ["100"]\n')
    (here / "flywheel.toml").write_text("[nonsense]\n")
    monkeypatch.chdir(here)
    monkeypatch.setenv("FLYWHEEL_GRID__SIZES", '["200"]')
    monkeypatch.setenv("FLYWHEEL_GRID__SICES", "x")
    graph = build_defs(home).resolve_asset_graph()
    partitions = graph.get(dg.AssetKey("finetuned_model")).partitions_def
    assert partitions is not None
    assert partitions.get_partition_keys() == ["100|all-MiniLM-L6-v2@256", "100|all-MiniLM-L6-v2@384"]
    assert caplog.messages == []


def test_importing_flywheel_imports_no_dagster_and_names_the_component() -> None:
    script = "import sys, flywheel; print('FlywheelComponent' in dir(flywheel), 'dagster' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["True", "False"]


def project(folder: Path, package: str, prefixes: dict[str, list[str]]) -> Path:
    """A project of somebody else's, with a flywheel for each name of `prefixes`."""
    source = folder / "src" / package
    for name, prefix in prefixes.items():
        (source / "defs" / name).mkdir(parents=True)
        yaml = f"type: flywheel.FlywheelComponent\nattributes:\n  home: ../../../../homes/{name}\n  key_prefix: {prefix}\n"
        yaml += "  pools: {gpu: cards, api: null}\n  owners: ['team:search']\n"
        (source / "defs" / name / "defs.yaml").write_text(yaml)
    (source / "__init__.py").touch()
    (source / "defs" / "__init__.py").touch()
    lines = ["[tool.dg]", 'directory_type = "project"', "[tool.dg.project]", f'root_module = "{package}"']
    (folder / "pyproject.toml").write_text("\n".join(lines))
    return source


def test_two_components_load_and_with_one_key_prefix_are_told_which_setting_to_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = project(tmp_path, "two_flywheels", {"search": ["search"], "help": ["search"]})
    monkeypatch.syspath_prepend(source.parent)
    with pytest.raises(Exception, match="Error") as raised:
        dg.Definitions.validate_loadable(dg.load_from_defs_folder(path_within_project=source))
    said = [cause for cause in causes(raised.value) if isinstance(cause, FlywheelError)]
    assert said, raised.value
    assert "have the same key_prefix, ['search']. Give each a key_prefix of its own in its defs.yaml." in str(said[0])
    file = source / "defs" / "help" / "defs.yaml"
    file.write_text(file.read_text().replace("['search']", "['help']"))
    made = dg.load_from_defs_folder(path_within_project=source)
    dg.Definitions.validate_loadable(made)
    assert {key.path[0] for key in made.resolve_asset_graph().get_all_asset_keys()} == {"search", "help"}
    graph = made.resolve_asset_graph()
    pools = {pool for key in graph.get_all_asset_keys() for pool in graph.get(key).pools or ()}
    assert pools == {"cards", "search_store", "help_store"}
    assert graph.get(dg.AssetKey(["help", "champion"])).owners == ["team:search"]
    assert made.executor is None
    homes = {resource.home for resource in (made.resources or {}).values()}
    assert homes == {str(tmp_path / "homes" / name) for name in ("search", "help")}


def causes(error: BaseException | None) -> list[BaseException]:
    return [error, *causes(error.__cause__ or error.__context__)] if error else []


INGESTED = ("seed_pairs", "interaction_pairs", "pairs", "snapshot")
VARIANTS = GridOptions().variants


class Turn:
    """A turn of the loop in a Dagster of somebody else's: a cell of the grid by hand, then a retraining by the sensor.

    The grid lacks the champion's variant.
    """

    def __init__(self, home: Path) -> None:
        workspace = make_workspace(home, pairs={"seed_pairs": "starter"}, compute={"run_in": "inline"}, retraining={"after": 1})
        champion = workspace.registry.champion()
        assert champion is not None
        self.outside, self.variant = champion.variant, next(each for each in VARIANTS if each != champion.variant)
        challengers = [self.variant, "gone-model@64"]
        self.workspace = with_options(workspace, grid={"variants": [self.variant]}, retraining={"challengers": challengers})
        self.cell = f"100|{self.variant}"
        self.instance = dg.DagsterInstance.ephemeral()
        self.made = build_defs(self.workspace.settings, key_prefix=["a"], workspace=self.workspace)
        self.take_a_pair()
        self.materialise(*INGESTED)
        self.materialise("finetuned_model", "evaluation", cell=self.cell)

    def take_a_pair(self) -> None:
        ingest_paths(self.workspace, [write_a_pair(self.workspace)])

    def materialise(self, *assets: str, cell: str | None = None) -> dg.ExecuteInProcessResult:
        keys = [dg.AssetKey(["a", name]) for name in assets]
        return dg.materialize(
            [*(self.made.assets or ()), *(self.made.asset_checks or ())], selection=keys, instance=self.instance,
            partition_key=cell, resources={"a_workspace": self.workspace},
        )  # fmt: skip

    def retrain(self) -> dg.ExecuteInProcessResult:
        context = dg.build_sensor_context(
            instance=self.instance, definitions=self.made, resources={"a_workspace": self.workspace}
        )
        tick = self.made.resolve_sensor_def("a_retrain_sensor").evaluate_tick(context)
        (request,) = tick.run_requests or ()
        return self.made.resolve_job_def("a_retrain").execute_in_process(instance=self.instance, tags=request.tags)

    def check(self, asset: str, name: str) -> dg.AssetCheckEvaluation:
        """Run a check without its asset."""
        key = dg.AssetCheckKey(dg.AssetKey(["a", asset]), name)
        job = dg.define_asset_job("check", selection=dg.AssetSelection.checks(key))
        alone = dg.Definitions.merge(self.made, dg.Definitions(jobs=[job])).resolve_job_def("check")
        result = alone.execute_in_process(instance=self.instance, raise_on_error=False)
        assert not result.get_asset_materialization_events()
        (found,) = result.get_asset_check_evaluations()
        return found

    def out_of_date(self) -> set[str]:
        """What the UI marks as unsynced."""
        graph = self.made.resolve_asset_graph()
        found = CachingStaleStatusResolver(self.instance, graph, LoadingContextForTest(self.instance))
        cells = {key: self.cell if graph.get(key).partitions_def else None for key in graph.get_all_asset_keys()}
        return {key.path[-1] for key, cell in cells.items() if found.get_status(key, cell) != StaleStatus.FRESH}


@pytest.fixture(scope="module")
def turn(demo: tuple[Path, object], tmp_path_factory: pytest.TempPathFactory) -> Turn:
    made = Turn(copy_home(demo[0], tmp_path_factory.mktemp("turn") / "home"))
    made.retrain()
    return made


@pytest.mark.slow
def test_a_champion_outside_the_grid_is_retrained(turn: Turn) -> None:
    (event,) = turn.instance.fetch_materializations(dg.AssetKey(["a", "retrained_model"]), limit=5).records
    assert event.asset_materialization is not None
    metadata = {name: value.value for name, value in event.asset_materialization.metadata.items()}
    assert metadata["variant"] == turn.outside
    assert metadata["snapshot_id"] == turn.workspace.current_snapshot().snapshot_id
    assert (turn.workspace.home.models / str(metadata["model"]) / "model.safetensors").exists()
    assert 0 < float(str(metadata["evaluated/error"])) < 0.5
    assert new_pairs(turn.workspace.store).new == 0


@pytest.mark.slow
def test_challengers_are_retrained_beside_it_and_looked_at_before_they_are_judged(turn: Turn) -> None:
    (event,) = turn.instance.fetch_materializations(dg.AssetKey(["a", "challengers"]), limit=5).records
    assert event.asset_materialization is not None
    (model,) = str(event.asset_materialization.metadata["model"].value).split()
    assert (turn.workspace.home.models / model / "model.safetensors").exists()
    assert model in {row.record_id for row in measuring.leaderboard(turn.workspace, turn.workspace.current_snapshot()).tuned}
    key = dg.AssetKey(["a", "challengers"])
    for name, passed in (("challengers_trained", False), ("served_vectors", True), ("folder_portability", True)):
        record = turn.instance.get_latest_asset_check_evaluation_record(dg.AssetCheckKey(key, name))
        assert record is not None
        assert record.evaluation is not None
        assert record.evaluation.passed == passed, name


@pytest.mark.slow
def test_events_hold_numbers_that_plot_and_no_pictures(turn: Turn) -> None:
    keys = turn.made.resolve_asset_graph().get_all_asset_keys()
    records = {key.path[-1]: turn.instance.fetch_materializations(key, limit=1).records[0] for key in keys}
    for name, record in records.items():
        assert len(dg.serialize_value(record.event_log_entry)) < 32_000, name
        assert "base64" not in dg.serialize_value(record.event_log_entry), name
        assert record.asset_materialization is not None
        assert record.asset_materialization.tags
        assert record.asset_materialization.tags["dagster/data_version"], name
    assert records["evaluation"].asset_materialization is not None
    metadata = records["evaluation"].asset_materialization.metadata
    low, error, high = (metadata[name].value for name in ("error_low", "error", "error_high"))
    assert isinstance(low, float)
    assert isinstance(high, float)
    assert low < error < high


@pytest.mark.slow
def test_every_check_of_a_turn_has_a_figure_that_plots(turn: Turn) -> None:
    graph = turn.made.resolve_asset_graph()
    without = set()
    for key in graph.get_check_keys_for_assets(graph.get_all_asset_keys()):
        record = turn.instance.get_latest_asset_check_evaluation_record(key)
        if record and isinstance(found := record.evaluation, dg.AssetCheckEvaluation):
            numbers = [each for each in found.metadata.values() if isinstance(each.value, int | float)]
            without |= {key.name} if not numbers else set()
        else:
            without.add(f"{key.name} did not run")
    assert without == set()


@pytest.mark.slow
def test_after_a_turn_nothing_is_out_of_date_and_after_new_pairs_what_depends_on_them_is(turn: Turn) -> None:
    assert turn.out_of_date() == set()
    turn.materialise(*INGESTED)
    assert turn.out_of_date() == set(), "the same content was made a second time"
    turn.take_a_pair()
    turn.materialise("interaction_pairs", "pairs", "snapshot")
    left = turn.out_of_date()
    assert left == {"finetuned_model", "retrained_model", "challengers", "baseline_scores"}, (
        "what was made of the snapshot before"
    )


@pytest.mark.slow
def test_checks_are_run_without_their_assets_and_see_what_became_of_a_folder(turn: Turn) -> None:
    assert turn.check("snapshot", "leak_probe").severity == dg.AssetCheckSeverity.WARN
    for asset in ("finetuned_model", "retrained_model"):
        found = turn.check(asset, "served_vectors")
        assert (found.passed, found.blocking, found.metadata["models"].value) == (True, True, 1)
    record = turn.instance.fetch_materializations(dg.AssetKey(["a", "retrained_model"]), limit=1).records[0]
    assert record.asset_materialization is not None
    folder = turn.workspace.home.models / str(record.asset_materialization.metadata["model"].value)
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    (embeddings,) = (name for name in tensors if name.endswith("word_embeddings.weight"))
    aside = weights.rename(weights.with_suffix(".aside"))
    save_file({**tensors, embeddings: np.roll(tensors[embeddings], 1, axis=0)}, weights, metadata={"format": "pt"})
    try:
        failed = turn.check("retrained_model", "served_vectors")
    finally:
        aside.replace(weights)
    assert not failed.passed
    assert folder.name in str(failed.description)


def test_the_leaderboard_follows_cells_made_by_hand_once_for_all_that_landed(tmp_path: Path) -> None:
    made, instance = build_defs(tmp_path), dg.DagsterInstance.ephemeral()
    sensor = made.resolve_sensor_def("leaderboard_sensor")
    assert sensor.default_status == dg.DefaultSensorStatus.RUNNING

    def land(asset: str, *cells: str | None) -> None:
        for cell in cells:
            instance.report_runless_asset_event(dg.AssetMaterialization(asset, partition=cell))

    def requested(cursor: Any = None) -> tuple[int, Any]:
        result = dg.evaluate_automation_conditions(made, instance, cursor=cursor)
        return result.total_requested, result.cursor

    land("leaderboard", None)
    asked, cursor = requested()
    assert asked == 0
    land("evaluation", "100|all-MiniLM-L6-v2@256", "200|all-MiniLM-L6-v2@256", "all|all-MiniLM-L6-v2@384")
    asked, cursor = requested(cursor)
    assert asked == 1
    land("leaderboard", None)
    asked, cursor = requested(cursor)
    assert asked == 0
    land("evaluation", "400|all-MiniLM-L6-v2@256")
    assert requested(cursor)[0] == 1


@pytest.mark.parametrize(("failure", "attempts"), [(TryAgainError, 4), (FlywheelError, 1)])
@pytest.mark.parametrize(
    ("asset", "module", "name"),
    [
        ("baseline_scores", measuring, "measure_baseline"),
        ("retrained_model", train, "train_cell"),
        ("champion", promote, "decide_champion"),
    ],
)
def test_what_may_pass_is_tried_again_and_what_is_wrong_is_not(
    asset: str, module: Any, name: str, failure: type[FlywheelError], attempts: int, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(flywheel, "FIRST_PAUSE", 0.0)
    asked = []

    def refuse(*arguments: Any) -> Any:
        asked.append(arguments)
        raise failure("The root says no. Set something.")

    monkeypatch.setattr(module, name, refuse)
    world = clump_world(tmp_path / "home", clumps=100)
    made = build_defs(world.workspace.settings, workspace=world.workspace)
    job = dg.define_asset_job("one", selection=[asset])
    run = dg.Definitions.merge(made, dg.Definitions(jobs=[job])).resolve_job_def("one")
    with dg.instance_for_test() as instance:
        result = run.execute_in_process(instance=instance, raise_on_error=False)
        assert (result.success, len(asked)) == (False, attempts)
        (failed,) = filter(None, map(sentence_of, result.all_events))
        assert failed == "The root says no. Set something."
        with pytest.raises(FlywheelError, match="The root says no"):
            materialise(Session(world.workspace, instance), [asset])
    assert len(asked) == attempts + 1, "who waits at a terminal is told at once"


def test_a_value_for_one_run_takes_the_place_of_a_setting(tmp_path: Path) -> None:
    context = dg.build_init_resource_context()
    said = {"random_seed": 7, "interaction_share": 0.5, "device": "cpu", "run_in": "inline", "baseline": "local"}
    assert said.keys() == WorkspaceResource.model_fields.keys() - {"home"}
    settings = WorkspaceResource(home=str(tmp_path), **said).create_resource(context).settings
    assert (settings.training.random_seed, settings.training.interaction_share) == (7, 0.5)
    assert (settings.encoding.device, settings.compute.run_in, settings.baseline.source) == ("cpu", "inline", "local")
    job = build_defs(tmp_path).resolve_job_def("ingest")
    asked = dg.validate_run_config(job, {"resources": {"workspace": {"config": {"random_seed": 7}}}})
    config = asked["resources"]["workspace"]["config"]
    assert (config["home"], config["random_seed"]) == (str(tmp_path), 7), "the home has to be named again"
    with pytest.raises(FlywheelError, match=r"run_in of this run's workspace cannot be 'moon': Input should be"):
        WorkspaceResource(home=str(tmp_path), run_in="moon").create_resource(context)

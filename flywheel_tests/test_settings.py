"""Settings come in groups, from the home's file and the environment; one that could only lead astray is refused by name."""

import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from flywheel.errors import FlywheelError
from flywheel.models.catalogue import ReferenceVector
from flywheel.settings import Settings, groups, load_settings, origins, settings_template
from flywheel.variables import Variables
from flywheel_tests.conftest import flywheel, verb

EVERY = {(group, name) for group, options in groups().items() for name in options.model_fields}


@pytest.fixture(autouse=True)
def _empty_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def write(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "flywheel.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_without_a_file_and_variables_there_are_defaults_and_nothing_is_made(home: Path) -> None:
    settings = load_settings(home / "new")
    assert settings == Settings(home=home / "new")
    assert set(origins(home / "new").values()) == {"default"}
    assert not (home / "new").exists()


def test_groups_come_from_the_homes_file(home: Path) -> None:
    write(
        home,
        """
        [baseline]
        url = "https://example.org/v1"
        [pairs]
        redact = ["email", "card"]
        columns = {text_a = "question"}
        [models.all-mpnet-base-v2]
        path = "/models/mpnet"
        [models."our-model-v1.5"]
        hub_id = "us/our-model-v1.5"
        prompts = {query = "query: "}
        published = {text = "hello", numbers = [0.5, -0.5]}
        [training.recipes.head]
        epochs = 3
        """,
    )
    settings = load_settings(home)
    assert (settings.home, settings.baseline.url) == (home, "https://example.org/v1")
    assert (settings.pairs.redact, settings.pairs.columns) == (("email", "card"), {"text_a": "question"})
    assert settings.models.tables == {
        "all-mpnet-base-v2": {"path": Path("/models/mpnet")},
        "our-model-v1.5": {
            "hub_id": "us/our-model-v1.5",
            "prompts": {"query": "query: "},
            "published": ReferenceVector("hello", (0.5, -0.5)),
        },
    }
    assert settings.training.recipes == {"head": {"epochs": 3}}
    assert settings.baseline.model == Settings().baseline.model  # what a group does not name keeps its default
    changed = {key for key, origin in origins(home).items() if origin != "default"}
    assert changed == {
        ("baseline", "url"),
        ("pairs", "redact"),
        ("pairs", "columns"),
        ("training", "recipes"),
    }


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (
            '[models]\ndevice = "cpu"',
            r"models\.device: .*since it is the name of a base model \(did you mean encoding\.device\?\)",
        ),
        ('[models.bge-m3]\npth = "/a"', r"models\.bge-m3\.pth: Extra inputs are not permitted"),
        ('[models.our-model-v1.5]\npath = "/a"', r'a dot stands in quotes: \[models\."our-model-v1\.5"\]'),
        ('[models.bge-m3]\npooling = "median"', r"models\.bge-m3\.pooling: Input should be 'mean', 'cls'"),
    ],
)
def test_a_table_of_a_base_model_that_is_wrong_is_named(home: Path, table: str, said: str) -> None:
    write(home, table)
    with pytest.raises(FlywheelError, match=said):
        load_settings(home)


def test_variables_name_group_and_setting_and_win_over_the_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(
        home,
        '[baseline]\nurl = "https://file/v1"\nprice = 3\n[pairs]\ncolumns = {text_a = "file"}\n[splits]\nmax_split_pairs = 7\n',
    )
    variables = {
        "FLYWHEEL_BASELINE__URL": "https://environment/v1", "FLYWHEEL_PAIRS__COLUMNS": '{"text_b": "environment"}',
        "FLYWHEEL_PAIRS__REDACT": '["phone"]', "FLYWHEEL_COMPUTE__GPU_SLOTS": "2",
    }  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    settings = load_settings(home)
    assert (settings.baseline.url, settings.baseline.price) == ("https://environment/v1", 3)
    assert settings.pairs.columns == {"text_b": "environment"}  # a table as a whole
    assert (settings.pairs.redact, settings.compute.gpu_slots, settings.splits.max_split_pairs) == (("phone",), 2, 7)
    sources = origins(home)
    assert sources.keys() == EVERY
    assert {key for key, origin in sources.items() if origin == "environment"} == {
        ("baseline", "url"), ("pairs", "columns"), ("pairs", "redact"), ("compute", "gpu_slots"),
    }  # fmt: skip
    assert {key for key, origin in sources.items() if origin == "file"} == {
        ("baseline", "price"),
        ("splits", "max_split_pairs"),
    }


def test_the_home_that_is_named_wins_over_the_variable_and_that_over_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("named", "variable", "here/data"):
        write(tmp_path / name, f'[baseline]\nmodel = "{name}"\n')
    assert load_settings().baseline.model == "here/data"
    monkeypatch.setenv("FLYWHEEL_HOME", str(tmp_path / "variable"))
    assert (load_settings().home, load_settings().baseline.model) == (tmp_path / "variable", "variable")
    named = load_settings(tmp_path / "named")
    assert (named.home, named.baseline.model) == (tmp_path / "named", "named")
    shown = json.loads(verb("config", "--json", "--home", "../named", FLYWHEEL_HOME=str(tmp_path / "variable")).stdout)
    assert (shown["home"], shown["baseline"]["model"]) == (str(tmp_path / "named"), {"value": "named", "origin": "file"})


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (
            'url = "x"\n[nosuch]\na = 1\n',
            ["Unknown setting in {file}: nosuch, url (did you mean baseline.url?).", "such as [baseline]"],
        ),
        ('home = "/elsewhere"\n', ["Unknown setting in {file}: home."]),
        ('baseline = "openai"\n', ["Unknown setting in {file}: baseline (which is a group)."]),
        (
            "[baseline]\nurll = 1\n[pairs]\nseed = 1\n",
            ["baseline.urll: Extra inputs", "pairs.seed: Extra inputs", "Fix {file}"],
        ),
        ("[training.recipes.half]\nepochs = 1\n", ["training.recipes.half"]),
    ],
)
def test_an_unknown_name_in_the_file_is_refused_by_name(home: Path, text: str, names: list[str]) -> None:
    file = write(home, text)
    with pytest.raises(FlywheelError) as caught:
        load_settings(home)
    assert all(name.format(file=file) in str(caught.value) for name in names), caught.value


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("FLYWHEEL_BASELINE_URL", "FLYWHEEL_BASELINE__URL"),
        ("FLYWHEEL__BASELINE__URL", "FLYWHEEL_BASELINE__URL"),
        ("FLYWHEEL_BASELINE___URL", "FLYWHEEL_BASELINE__URL"),
        ("flywheel_baseline__url", "FLYWHEEL_BASELINE__URL"),
        ("Flywheel_Baseline_Url", "FLYWHEEL_BASELINE__URL"),
        ("FLYWHEEL_BASELINE__MODL", "FLYWHEEL_BASELINE__MODEL"),
        ("FLYWHEEL_BASLINE__PRICE", "FLYWHEEL_BASELINE__PRICE"),
        ("FLYWHEEL_BASELINE__URI", "FLYWHEEL_BASELINE__URL"),
        ("FLYWHEEL_COMPUTE_RUNIN", "FLYWHEEL_COMPUTE__RUN_IN"),
        ("FLYWHEEL_TRAINING__RANDOMSEED", "FLYWHEEL_TRAINING__RANDOM_SEED"),
        ("FLYWHEEL_ENCODNG__DEVICE", "FLYWHEEL_ENCODING__DEVICE"),
        ("FLYWHEEL_HOMES", "FLYWHEEL_HOME"),
        ("flywheel_home", "FLYWHEEL_HOME"),
        ("FLYWHEEL_BASELINE__NOSUCH", None),  # of which the group says that it was meant for us
        ("FLYWHEEL_PAIRS__COLUMNS__JINA", None),
    ],
)
def test_a_misspelt_variable_is_refused_with_the_setting_that_was_meant(
    home: Path, monkeypatch: pytest.MonkeyPatch, name: str, meant: str | None
) -> None:
    monkeypatch.setenv(name, "1")
    said = (
        f"Unknown setting {name} (did you mean {meant}?). Rename or" if meant else f"Unknown setting {name}. Rename or unset it"
    )
    for read in (load_settings, origins):
        with pytest.raises(FlywheelError, match=f"^{re.escape(said)}"):
            read(home)


def test_every_slip_of_one_letter_or_underscore_in_every_variable_is_refused() -> None:
    known = {f"FLYWHEEL_{group}__{name}".upper() for group, name in EVERY} | {"FLYWHEEL_HOME"}
    for name in known:
        begins = len("FLYWHEEL_")
        dropped = {name[:place] + name[place + 1 :] for place in range(begins, len(name))}
        doubled = {name[:place] + name[place] + name[place:] for place in range(begins, len(name))}
        slips = (dropped | doubled | {name.lower(), name.replace("__", "_")}) - known
        assert Variables.of(slips, known).misspelt.keys() == slips


SERVICES = [
    "FLYWHEEL", "FLYWHEEL_BASELINE", "FLYWHEEL_TRAINING", "FLYWHEEL_HOME", "FLYWHEEL_BASELINE_URL", "FLYWHEEL_PAIRS__COLUMNS",
    "FLYWHEEL_BASELINE_MODEL", "FLYWHEEL_2",
]  # fmt: skip


def links(service: str) -> dict[str, str]:
    """What Kubernetes sets in every pod for a service of two ports, one of them named."""
    address, variables = "10.0.0.1", {}
    for port, protocol in ((80, "TCP"), (3000, "UDP")):
        one = f"{service}_PORT_{port}_{protocol}"
        variables |= {
            one: f"{protocol.lower()}://{address}:{port}", f"{one}_PROTO": protocol.lower(),
            f"{one}_PORT": str(port), f"{one}_ADDR": address,
        }  # fmt: skip
    return variables | {
        f"{service}_SERVICE_HOST": address, f"{service}_SERVICE_PORT": "80", f"{service}_SERVICE_PORT_HTTP_METRICS": "3000",
        f"{service}_PORT": f"tcp://{address}:80",
    }  # fmt: skip


@pytest.mark.parametrize("service", SERVICES)
def test_what_kubernetes_sets_for_a_service_stops_nothing_and_is_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, service: str
) -> None:
    shown = verb("config", "--json", "--home", tmp_path, **links(service))
    assert shown.returncode == 0
    assert json.loads(shown.stdout)["baseline"]["url"] == {"value": Settings().baseline.url, "origin": "default"}
    (line,) = caplog.messages
    assert line.startswith(f"{', '.join(sorted(links(service)))} are no settings and are ignored")
    assert "enableServiceLinks: false" in line


def test_the_line_about_other_variables_is_the_only_one_and_not_on_standard_output(home: Path) -> None:
    run = flywheel("config", "--json", "--home", home, **links("FLYWHEEL"))
    assert (run.returncode, len(run.stderr.splitlines())) == (0, 1)
    assert "10.0.0.1" not in run.stdout + run.stderr
    assert json.loads(run.stdout)["home"] == str(home)


@pytest.mark.parametrize(
    "name",
    ["FLYWHEEL_VERSION", "FLYWHEEL_API_KEY", "FLYWHEEL_BASELINE", "FLYWHEEL_NAME", "FLYWHEEL_HOST", "FLYWHEEL_NOSUCH__URL"],
)
def test_a_variable_of_somebody_elses_is_named_and_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    assert verb("config", "--home", tmp_path, **{name: "s3cret"}).returncode == 0
    (line,) = caplog.messages
    assert line.startswith(f"{name} is no setting and is ignored (`flywheel config` lists every setting")
    assert "s3cret" not in line


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("[basline]\n", "basline (did you mean [baseline]?)"),
        ('url = "x"\n', "url (did you mean baseline.url?)"),
        ('[baseline]\nurll = "x"\n', "baseline.urll: Extra inputs are not permitted (did you mean baseline.url?)"),
        (
            "[pairs]\nrandom_seed = 1\n",
            "pairs.random_seed: Extra inputs are not permitted (did you mean training.random_seed?)",
        ),
    ],
)
def test_a_misspelt_name_in_the_file_is_refused_with_the_one_that_was_meant(home: Path, text: str, meant: str) -> None:
    write(home, text)
    with pytest.raises(FlywheelError, match=re.escape(meant)):
        load_settings(home)


def test_a_value_of_the_wrong_type_is_named_as_it_was_given(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(home, '[splits]\nmax_split_pairs = "many"\n[compute]\ngpu_slots = 0\n[encoding]\nstate_cache_gb = 3\n')
    monkeypatch.setenv("FLYWHEEL_EVALUATION__MIN_COMPONENTS", "few")
    monkeypatch.setenv("FLYWHEEL_COMPUTE__GPU_SLOTS", "two")
    monkeypatch.setenv("FLYWHEEL_PAIRS__REDACT", '["name"]')
    with pytest.raises(FlywheelError) as caught:
        load_settings(home)
    words = [
        "Invalid settings: ", "splits.max_split_pairs: Input should be a valid integer",
        "FLYWHEEL_EVALUATION__MIN_COMPONENTS: Input should be a valid integer", "FLYWHEEL_PAIRS__REDACT: Input should be",
        "FLYWHEEL_COMPUTE__GPU_SLOTS: Input should be a valid integer", f"Fix {home}/flywheel.toml or the FLYWHEEL_* variables",
    ]  # fmt: skip
    assert all(word in str(caught.value) for word in words), caught.value
    assert "compute.gpu_slots" not in str(caught.value)  # the file's value does not count
    assert "state_cache_gb" not in str(caught.value)


@pytest.mark.parametrize("name", ["PAIRS__REDACT", "PAIRS__COLUMNS", "TRAINING__RECIPES"])
@pytest.mark.parametrize("value", ["email", "", "{'a': 'b'}"])
def test_a_list_or_table_that_is_not_json_is_refused_by_name(
    home: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"FLYWHEEL_{name}", value)
    with pytest.raises(FlywheelError, match=rf"^FLYWHEEL_{name} is not JSON: {re.escape(value)}\. Write a list as"):
        load_settings(home)


@pytest.mark.parametrize("content", [b"[baseline\n", b"\xff", None])
def test_a_file_that_cannot_be_read_is_named(home: Path, content: bytes | None) -> None:
    file = home / "flywheel.toml"
    file.mkdir() if content is None else file.write_bytes(content)
    with pytest.raises(FlywheelError, match=rf"^{file} cannot be read: .* Fix it, or move it away to use the defaults\."):
        load_settings(home)


@pytest.mark.parametrize("value", ["inf", "nan", "-1"])
@pytest.mark.parametrize("name", ["COMPUTE__PRICE_PER_HOUR", "BASELINE__PRICE", "ENCODING__STATE_CACHE_GB"])
def test_an_amount_is_a_finite_number(home: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"FLYWHEEL_{name}", value)
    with pytest.raises(FlywheelError, match=rf"Invalid settings: FLYWHEEL_{name}: Input should be .* Fix .*flywheel\.toml"):
        load_settings(home)


def test_a_baseline_has_a_name(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLYWHEEL_BASELINE__MODEL", "")
    with pytest.raises(FlywheelError, match=r"FLYWHEEL_BASELINE__MODEL: .* at least 1 character"):
        load_settings(home)


@pytest.mark.parametrize(
    ("name", "value", "form"),
    [
        ("storage.memory_limit", "80%", "such as 4GB"),
        ("storage.memory_limit", "much", "such as 4GB"),
        ("storage.database", "postgres:dbname=pairs", "ducklake:postgres:..."),
        ("storage.root", "bucket/path", "s3://bucket/path"),
        ("alarms.ui_url", "localhost:3000", "http://..."),
    ],
)
def test_a_text_of_another_form_is_answered_by_what_the_setting_means(home: Path, name: str, value: str, form: str) -> None:
    write(home, f'{name} = "{value}"\n')
    with pytest.raises(FlywheelError, match=rf"{name}: not of the form that it takes \(.*{re.escape(form)}"):
        load_settings(home)


@pytest.mark.parametrize("source", ["seed", "interaction"])
def test_something_is_left_to_train_on(home: Path, source: str) -> None:
    write(home, f"[splits]\n{source}_test_share = 0.6\n{source}_calibration_share = 0.4\n")
    with pytest.raises(FlywheelError, match=rf"splits: the {source} shares of test and calibration leave nothing to train on"):
        load_settings(home)


@pytest.mark.parametrize("exists", [True, False])
def test_a_file_in_the_working_directory_is_named_with_the_command_that_brings_it_home(tmp_path: Path, exists: bool) -> None:
    home = tmp_path / "it's mine"
    if exists:
        home.mkdir()
    stray = write(tmp_path / "here", '[baseline]\nmodel = "stray"\n')
    before = flywheel("config", "--home", home)
    warning = f"{stray} is not read, since settings belong to a home. To use it: "
    (line,) = [line for line in before.stderr.splitlines() if line.startswith(warning)]
    assert 'model = "text-embedding-3-small"  # default' in before.stdout
    subprocess.run(["sh", "-c", line.removeprefix(warning)], check=True)
    assert not stray.exists()
    after = flywheel("config", "--home", home)
    assert (after.returncode, after.stderr) == (0, "")
    assert 'model = "stray"  # file' in after.stdout


@pytest.mark.parametrize("lies_in", ["home", "here"])
def test_a_file_in_the_working_directory_is_no_matter_where_the_home_has_its_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, lies_in: str
) -> None:
    write(tmp_path / "here", "")
    write(tmp_path / lies_in, '[baseline]\nmodel = "own"\n')
    assert load_settings(tmp_path / lies_in).baseline.model == "own"
    assert caplog.records == []


def test_the_template_explains_every_setting_and_loads_to_the_defaults(home: Path) -> None:
    text = settings_template()
    assert all(not options for options in tomllib.loads(text).values())
    assert tomllib.loads(text).keys() == groups().keys()
    uncommented = re.sub(r"^# (\w+ = .+)$", r"\1", text, flags=re.MULTILINE)
    given = {(group, name) for group, options in tomllib.loads(uncommented).items() for name in options}
    defaults = Settings()
    assert given == {(group, name) for group, name in EVERY if getattr(getattr(defaults, group), name) is not None}
    write(home, uncommented)
    assert load_settings(home) == Settings(home=home)
    assert {key for key, origin in origins(home).items() if origin == "file"} == given
    for group, name in EVERY - given:
        assert re.search(rf"^\[{group}\]\n(?:# .*\n)*# {name} =$", text, flags=re.MULTILINE)
    for options in groups().values():
        for name, field in options.model_fields.items():
            assert f"# {field.description}\n# {name} =" in text


def test_config_writes_the_template_once(home: Path) -> None:
    first = verb("config", "--init", "--home", home)
    assert first.returncode == 0
    assert f"# home {home}, settings in {home}/flywheel.toml\n" in first.stdout
    assert (home / "flywheel.toml").read_text() == settings_template()
    assert load_settings(home) == Settings(home=home)
    write(home, "[pairs]  # mine\n")
    again = verb("config", "--init", "--home", home)
    message = f"flywheel: {home}/flywheel.toml exists already and was left as it is. Edit it, or move it away first.\n"
    assert (again.returncode, again.stdout, again.stderr) == (1, "", message)
    assert (home / "flywheel.toml").read_text() == "[pairs]  # mine\n"


def test_config_shows_every_setting_with_its_origin(home: Path) -> None:
    environment = {"FLYWHEEL_PAIRS__REDACT": '["phone"]'}
    bare = json.loads(verb("config", "--json", "--home", home).stdout)
    assert bare["file"] is None
    file = write(home, '[baseline]\nprice = 3\n[pairs.columns]\ntext_a = "q"\n[pairs.files."x.csv"]\nlabels = {yes = 1}\n')
    run, as_json = (verb("config", *more, "--home", home, **environment) for more in ((), ("--json",)))
    shown: dict[str, Any] = json.loads(as_json.stdout)
    assert (shown.pop("home"), shown.pop("file")) == (str(home), str(file))
    assert {(group, name) for group, options in shown.items() for name in options} == EVERY
    assert shown["pairs"]["redact"] == {"value": ["phone"], "origin": "environment"}
    assert shown["baseline"]["price"] == {"value": 3, "origin": "file"}
    assert shown["pairs"]["quora_path"] == {"value": None, "origin": "default"}
    lines = run.stdout.splitlines()
    assert lines[0] == f"# home {home}, settings in {file}"
    assert {'redact = ["phone"]  # environment', "price = 3.0  # file", 'columns = {"text_a" = "q"}  # file'} <= set(lines)
    assert {"quora_path = not set  # default", 'files = {"x.csv" = {"labels" = {"yes" = 1}}}  # file'} <= set(lines)
    values = "\n".join(line for line in lines if " = not set  #" not in line)
    assert {(group, name) for group, options in tomllib.loads(values).items() for name in options} == {
        (group, name) for group, name in EVERY if shown[group][name]["value"] is not None
    }


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("ducklake:postgres:dbname=pairs password=s3cret host=db", "ducklake:postgres:dbname=pairs password=*** host=db"),
        ("ducklake:postgres:postgres://me:s3cret@db/pairs", "ducklake:postgres:postgres://me:***@db/pairs"),
        ("ducklake:sqlite:/data/pairs.sqlite", "ducklake:sqlite:/data/pairs.sqlite"),
    ],
)
def test_config_shows_no_password_of_a_database(tmp_path: Path, address: str, shown: str) -> None:
    for arguments in (["config"], ["config", "--json"]):
        answer = verb(*arguments, "--home", tmp_path, FLYWHEEL_STORAGE__DATABASE=address).stdout
        assert shown in answer
        assert "s3cret" not in answer


def test_a_wrong_setting_is_named_and_config_then_lists_the_right_ones(tmp_path: Path) -> None:
    wrong = {"FLYWHEEL_BASELINE__ADDRESS": "http://127.0.0.1:9/v1"}
    refused = verb("leaderboard", "--home", tmp_path, **wrong)
    assert (refused.returncode, "`flywheel config` lists every setting" in refused.stderr) == (1, True)
    listed = verb("config", "--home", tmp_path, **wrong)
    assert listed.returncode == 1
    assert "FLYWHEEL_BASELINE__ADDRESS" in listed.stderr
    assert "[baseline]" in listed.stdout
    assert '# url = "https://api.openai.com/v1"' in listed.stdout

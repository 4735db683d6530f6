"""node.toml: every key is known, every number makes sense, and an error names the nearest key."""

from pathlib import Path

import pytest

from solblom_client.policy import NodeConfig, load_node_config
from solblom_protocol.errors import ConfigurationError

HONEST = """\
[node]
site = "north"
state = "state"
[coordinator]
key = "coordinator.pub"
[policy]
tasks = ["tabular-classification"]
study_signers = ["researcher.pub"]
[consent]
source = "consent.csv"
rule = "opt-in"
[vault]
[[dataset]]
name = "cardiology"
connector = "table"
path = "cardiology.csv"
"""


def load(folder: Path, text: str) -> NodeConfig:
    (folder / "node.toml").write_text(text, encoding="utf-8")
    return load_node_config(folder)


def refused(folder: Path, text: str) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as error:
        load(folder, text)
    return error.value


def with_line(section: str, line: str) -> str:
    assert section in HONEST
    return HONEST.replace(section, f"{section}\n{line}", 1)


def test_what_the_file_leaves_out_is_the_careful_choice(tmp_path: Path) -> None:
    policy = load(tmp_path, HONEST).policy
    assert not policy.allow_privacy_off
    assert not policy.shared_noise.allow
    assert (policy.epsilon_budget, policy.study_epsilon, policy.delta) == (8.0, 3.0, 1e-5)
    assert policy.min_patients == 10


def test_a_vault_that_nothing_is_said_about_must_be_cut_off(tmp_path: Path) -> None:
    for text in (HONEST, HONEST.replace("[vault]\n", "")):
        vault = load(tmp_path, text).vault
        assert vault.isolation == "required"
        assert vault.socket == "vault/vault.sock"
        assert (vault.order_minutes, vault.memory_gib) == (60.0, 8.0)


def test_a_node_is_no_simulation_unless_it_says_so(tmp_path: Path) -> None:
    assert not load(tmp_path, HONEST).node.simulation


@pytest.mark.parametrize(
    ("section", "line", "nearest"),
    [
        ("[policy]", "epsilon_budgt = 8.0", "epsilon_budget"),
        ("[policy]", "study_epsilom = 3.0", "study_epsilon"),
        ("[policy]", "allow_privacy_of = true", "allow_privacy_off"),
        ("[policy]", "shared_noise = { alow = true }", "allow"),
        ("[policy]", "min_patient = 10", "min_patients"),
        ("[node]", "simulaton = true", "simulation"),
        ("[coordinator]", "urls = 'https://fl.example.no'", "url"),
        ("[consent]", "max_age_hour = 24", "max_age_hours"),
        ("[[dataset]]", "patients = 'id'", "patient"),
        ("[vault]", "isolaton = 'required'", "isolation"),
        ("[vault]", "memory_gb = 8", "memory_gib"),
    ],
)
def test_an_unknown_key_is_refused_and_the_nearest_key_named(
    tmp_path: Path, section: str, line: str, nearest: str
) -> None:
    error = refused(tmp_path, with_line(section, line))
    assert error.code == "SB-102"
    assert f"did you mean `{nearest}`?" in error.message


def test_an_unknown_key_says_where_it_stands(tmp_path: Path) -> None:
    error = refused(tmp_path, with_line("[policy]", "shared_noise = { alow = true }"))
    assert "policy.shared_noise.alow" in error.message


def test_an_unknown_key_like_no_other_is_refused_without_a_guess(tmp_path: Path) -> None:
    error = refused(tmp_path, with_line("[policy]", "qqqqqqqq = 1"))
    assert error.code == "SB-102"
    assert "did you mean" not in error.message


def test_an_unknown_table_is_refused(tmp_path: Path) -> None:
    error = refused(tmp_path, HONEST + "[polices]\ntasks = []\n")
    assert error.code == "SB-102"
    assert "did you mean `policy`?" in error.message


@pytest.mark.parametrize(
    ("section", "line"),
    [
        ("[policy]", "epsilon_budget = 0"),
        ("[policy]", "epsilon_budget = -1"),
        ("[policy]", "epsilon_budget = inf"),
        ("[policy]", "epsilon_budget = nan"),
        ("[policy]", "study_epsilon = inf"),
        ("[policy]", "study_epsilon = 0"),
        ("[policy]", "delta = 0"),
        ("[policy]", "delta = 1"),
        ("[policy]", "delta = nan"),
        ("[policy]", "min_patients = 1"),
        ("[policy]", "min_patients = -5"),
        ("[policy]", "release = 'sometimes'"),
        ("[policy]", "shared_noise = { allow = true, min_honest_nodes = 1 }"),
        ("[consent]", "max_age_hours = 0"),
        ("[consent]", "max_age_hours = inf"),
        ("[vault]", "order_minutes = 0"),
        ("[vault]", "order_minutes = inf"),
        ("[vault]", "memory_gib = 0"),
        ("[vault]", "memory_gib = nan"),
        ("[vault]", "isolation = 'none'"),
    ],
)
def test_a_number_that_makes_no_sense_is_refused(tmp_path: Path, section: str, line: str) -> None:
    error = refused(tmp_path, with_line(section, line))
    assert error.code == "SB-103"
    assert line.split(" ")[0] in error.message


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('tasks = ["tabular-classification"]', "tasks = []"),
        ('study_signers = ["researcher.pub"]', "study_signers = []"),
        ('study_signers = ["researcher.pub"]\n', ""),
        ('rule = "opt-in"', 'rule = "opt"'),
        ('rule = "opt-in"\n', ""),
        ('site = "north"', 'site = "../north"'),
        ('site = "north"', 'site = "North"'),
        ('site = "north"\n', ""),
        ('key = "coordinator.pub"\n', ""),
    ],
)
def test_a_missing_or_wrong_setting_is_refused(tmp_path: Path, old: str, new: str) -> None:
    assert old in HONEST
    assert refused(tmp_path, HONEST.replace(old, new)).code == "SB-103"


def test_a_node_without_a_data_set_is_refused(tmp_path: Path) -> None:
    text = HONEST[: HONEST.index("[[dataset]]")]
    assert refused(tmp_path, text).code == "SB-103"


@pytest.mark.parametrize(
    "line",
    [
        'release = "sometimes"',
        'hours = "22-06"',
        'hours = "24:00-06:00"',
        'hours = "22:00-06:60"',
        'time_zone = "Norway time"',
        'time_zone = "../../etc/passwd"',
    ],
)
def test_a_release_rule_or_hours_that_nobody_can_keep_are_refused(
    tmp_path: Path, line: str
) -> None:
    assert refused(tmp_path, with_line("[policy]", line)).code == "SB-103"


@pytest.mark.parametrize(
    "line", ['syslog = "http:host:1"', 'syslog = "udp:host"', "retention_days = 0"]
)
def test_a_log_that_goes_nowhere_is_refused(tmp_path: Path, line: str) -> None:
    text = HONEST.replace("[policy]", f"[log]\n{line}\n[policy]")
    assert refused(tmp_path, text).code == "SB-103"


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as error:
        load_node_config(tmp_path)
    assert error.value.code == "SB-101"


@pytest.mark.parametrize("data", [b"[node", b"\xff\xfe", b"a = 1\na = 2\n"])
def test_a_file_that_is_not_toml_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "node.toml").write_bytes(data)
    with pytest.raises(ConfigurationError) as error:
        load_node_config(tmp_path)
    assert error.value.code == "SB-101"


def test_paths_are_relative_to_the_file_and_not_to_the_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load(tmp_path, HONEST)
    monkeypatch.chdir("/")
    assert config.state == tmp_path / "state"
    assert config.path(config.consent.source) == tmp_path / "consent.csv"

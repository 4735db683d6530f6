"""Simulated hospitals: real node folders whose secrets follow from a public seed, and which say so."""

import stat
from pathlib import Path

import pytest

from solblom_client.keys import create_node_keys, read_node_keys
from solblom_client.policy import load_node_config
from solblom_protocol.errors import ConfigurationError
from solblom_server.coordinator import Coordinator
from solblom_simulation.federation import LocalTransport
from solblom_simulation.hospitals import (
    HEART_SITES,
    SimulationPolicy,
    create_federation,
    heart_tables,
    node_files,
    seeded_entropy,
)
from solblom_verify.trust import load_trust


def create(home: Path, *, seed: int = 1) -> Coordinator:
    return create_federation(home, seed=seed, tables=heart_tables(), policy=SimulationPolicy())


@pytest.fixture
def home(tmp_path: Path) -> Path:
    create(tmp_path / "home")
    return tmp_path / "home"


def test_the_same_seed_gives_the_same_secrets() -> None:
    assert seeded_entropy(1, "va")("signing") == seeded_entropy(1, "va")("signing")


@pytest.mark.parametrize(
    ("seed", "owner", "label"), [(2, "va", "signing"), (1, "vb", "signing"), (1, "va", "sealing")]
)
def test_every_seed_owner_and_purpose_has_secrets_of_its_own(
    seed: int, owner: str, label: str
) -> None:
    assert seeded_entropy(seed, owner)(label) != seeded_entropy(1, "va")("signing")


def test_there_is_one_node_for_each_table(home: Path) -> None:
    sites = [load_node_config(node).node.site for node in node_files(home)]
    assert sites == list(HEART_SITES)


def test_every_simulated_node_says_that_it_is_one(home: Path) -> None:
    assert all(load_node_config(node).node.simulation for node in node_files(home))


def test_every_node_is_enrolled_at_the_coordinator(home: Path) -> None:
    assert [node.name for node in Coordinator.open(home).nodes()] == list(HEART_SITES)


def test_every_node_pins_the_coordinator(home: Path) -> None:
    pinned = {(node.parent / "coordinator.pub").read_bytes() for node in node_files(home)}
    assert pinned == {Coordinator.open(home).public.to_bytes()}


def test_the_trust_file_names_the_coordinators_key(home: Path) -> None:
    (key,) = load_trust(home / "trust.json").keys
    assert key.keyid == Coordinator.open(home).public.key_id


def test_private_keys_can_be_read_by_their_owner_alone(home: Path) -> None:
    keys = list(home.rglob("*.key"))
    assert len(keys) >= 2 + 1 + 3 * len(HEART_SITES)
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys} == {0o600}


def test_hospitals_share_no_key(home: Path) -> None:
    keys = [read_node_keys(load_node_config(node).state) for node in node_files(home)]
    assert len({key.split for key in keys}) == len(keys)
    assert len({key.public("x").key_id for key in keys}) == len(keys)


def test_a_folder_that_holds_a_federation_is_left_alone(home: Path) -> None:
    before = Coordinator.open(home).public.key_id
    with pytest.raises(ConfigurationError) as caught:
        create(home, seed=2)
    assert caught.value.code == "SB-113"
    assert Coordinator.open(home).public.key_id == before


def test_keys_of_a_hospital_are_random_outside_a_simulation(tmp_path: Path) -> None:
    first, second = create_node_keys(tmp_path / "a"), create_node_keys(tmp_path / "b")
    assert first.split != second.split


def test_the_local_transport_reaches_every_hospital(home: Path) -> None:
    transport = LocalTransport(home)
    assert set(transport.addresses) == set(HEART_SITES)
    assert list(transport.grid.get_node_ids()) == sorted(transport.addresses.values())

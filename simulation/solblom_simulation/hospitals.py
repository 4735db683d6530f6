"""Hospitals of a simulation: real node folders with real keys, policies and ledgers, all on one machine.

Keys and noise roots follow from a public seed, so that anybody gets the same model. That is why a
simulation protects nobody, and why its folders, receipts and artefacts say `simulation`.
"""

import datetime as dt
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from solblom_client.approvals.approval import approve
from solblom_client.approvals.summary import ApprovalSummary
from solblom_client.keys import read_node_keys
from solblom_client.link.transport_key import create_transport_key, public_transport_pem
from solblom_client.node import create_node
from solblom_client.policy import load_node_config
from solblom_protocol.keys.key_files import write_new
from solblom_server.coordinator import Coordinator, create_coordinator
from solblom_server.researcher import create_researcher
from solblom_verify.wording import format_delta

HEART_SITES = ("cleveland", "hungarian", "switzerland", "va")

_NODE_TOML = """\
# A hospital node of a SIMULATION: its keys follow from a public seed. Never point it at patient data.

[node]
site = "{site}"
state = "state"
anchor = "ledger-anchor.json"      # outside the state folder: shows a ledger that was rolled back
simulation = true

[coordinator]
key = "coordinator.pub"            # pinned: orders signed by any other key are refused
inbox = "../../exchange/{site}/orders"    # rounds by file; between real hospitals, somebody carries them
outbox = "../../exchange/{site}/replies"
{network}
[policy]
tasks = ["{task}"]
study_signers = ["researcher.pub"] # only studies signed by these keys can be approved
epsilon_budget = {epsilon_budget}               # lifetime, over all studies of this hospital
study_epsilon = {study_epsilon}                # per study
delta = {delta}
shared_noise = {{ allow = {shared_noise}, min_honest_nodes = {min_honest_nodes}, alone_epsilon = {alone_epsilon:g} }}
min_patients = 10
release = "automatic"
allow_privacy_off = {allow_privacy_off}

[consent]
source = "consent.csv"
rule = "opt-out"                   # the data are public or made up: included unless the file says otherwise
max_age_hours = 87600

[[dataset]]
name = "{dataset}"
connector = "{connector}"
path = "{file}"
"""

_NETWORK = """\
url = "https://{address}"
ca_file = "../../tls/authority.pem"
"""


@dataclass(frozen=True)
class DataKind:
    """What simulated hospitals hold, and for which task they allow its use.

    Attributes:
        file: the data set's path; where a hospital's data are a folder, that of `file` becomes a copy of it.
        features: of slides, where their features go.
    """

    task: str
    connector: str
    dataset: str
    file: str
    features: str | None = None


TABLES = DataKind("tabular-classification", "table", "cardiology", "patients.csv")
SLIDES = DataKind("slide-mil", "slides", "pathology", "pathology/slides.csv", "features")
CASES = DataKind("phenotype-ranking", "phenopackets", "genetics", "cases.jsonl")


@dataclass(frozen=True)
class SimulationPolicy:
    """What the simulated hospitals allow."""

    epsilon_budget: float = 8.0
    study_epsilon: float = 3.0
    delta: float = 1e-5
    allow_privacy_off: bool = False
    shared_noise: bool = False
    min_honest_nodes: int = 3
    alone_epsilon: float = 10.0


def seeded_entropy(seed: int, owner: str) -> Callable[[str], bytes]:
    """Return a source of 'secrets' that follow from a public seed. For simulations only."""

    def entropy(label: str) -> bytes:
        info = f"solblom/simulation/v1/{owner}/{label}".encode()
        return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(str(seed).encode())

    return entropy


def create_federation(
    home: Path,
    *,
    seed: int,
    tables: dict[str, Path],
    policy: SimulationPolicy,
    address: str | None = None,
    kind: DataKind = TABLES,
) -> Coordinator:
    """Make coordinator, researcher and one node per file or folder of data in a new folder.

    `address` is given for rounds over a network.

    Raises:
        ConfigurationError: SB-113, the folder holds a federation.
    """
    coordinator = create_coordinator(
        home,
        name="simulation",
        entropy=seeded_entropy(seed, "coordinator"),
        address=address,
        listen=address,
    )
    create_researcher(
        home / "researcher", name="researcher", entropy=seeded_entropy(seed, "researcher")
    )
    for site, table in sorted(tables.items()):
        folder = home / "sites" / site
        text = _node_toml(site, policy, address, kind)
        write_new(folder / "node.toml", text.encode(), mode=0o644)
        if table.is_dir():
            shutil.copytree(table, (folder / kind.file).parent)
        else:
            shutil.copyfile(table, folder / kind.file)
        _create_site(home, site, coordinator, seed)
    return coordinator


def heart_tables() -> dict[str, Path]:
    """Return the embedded UCI heart-disease tables, one per real hospital."""
    folder = files("solblom_simulation") / "data" / "heart_disease"
    with as_file(folder) as path:
        return {site: path / f"{site}.csv" for site in HEART_SITES}


def approve_everywhere(
    home: Path, envelope: bytes, *, seed: int, now: dt.datetime
) -> dict[str, ApprovalSummary]:
    """Let every simulated hospital check and approve a study, with a noise root that follows from the seed."""
    summaries: dict[str, ApprovalSummary] = {}
    for node in node_files(home):
        config = load_node_config(node)
        root = seeded_entropy(seed, config.node.site)("noise-root")
        summaries[config.node.site] = approve(
            config, read_node_keys(config.state), envelope, now=now, root=root
        )
    return summaries


def node_files(home: Path) -> list[Path]:
    """Return the node.toml of every simulated hospital, by site."""
    return sorted((home / "sites").glob("*/node.toml"))


def _node_toml(site: str, policy: SimulationPolicy, address: str | None, kind: DataKind) -> str:
    network = "" if address is None else _NETWORK.format(address=address)
    features = "" if kind.features is None else f'features = "{kind.features}"\n'
    return (_NODE_TOML + features).format(
        site=site,
        epsilon_budget=policy.epsilon_budget,
        study_epsilon=policy.study_epsilon,
        delta=format_delta(policy.delta),
        allow_privacy_off=str(policy.allow_privacy_off).lower(),
        shared_noise=str(policy.shared_noise).lower(),
        min_honest_nodes=policy.min_honest_nodes,
        alone_epsilon=policy.alone_epsilon,
        network=network,
        task=kind.task,
        dataset=kind.dataset,
        connector=kind.connector,
        file=kind.file,
    )


def _create_site(home: Path, site: str, coordinator: Coordinator, seed: int) -> None:
    """Make one hospital's keys and consent beside its node.toml and data, and enrol it."""
    folder = home / "sites" / site
    (folder / "consent.csv").write_text("patient_id,status,valid_until\n", encoding="utf-8")
    shutil.copyfile(home / "coordinator.pub", folder / "coordinator.pub")
    shutil.copyfile(home / "researcher" / "researcher.pub", folder / "researcher.pub")
    config = load_node_config(folder)
    node = create_node(config, entropy=seeded_entropy(seed, site))
    if config.coordinator.url is None:
        coordinator.enrol(node)
    else:
        key = public_transport_pem(create_transport_key(config))
        coordinator.enrol(node, transport_key=key)

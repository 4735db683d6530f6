"""The same toy on stock Flower: flower-superlink and flower-supernode, TLS and node keys, FedAvg, train only."""

import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from flwr.cli.build import build_fab_from_disk
from flwr.proto.control_pb2 import StartRunRequest
from flwr.proto.fab_pb2 import Fab

from solblom_client.link.transport_key import public_transport_pem
from solblom_server.service.certificates import FOLDER as TLS
from solblom_server.service.superlink import QUIET, Control, end_process, start_superlink
from solblom_server.settings import free_port

BIN = Path(sys.executable).parent
PYPROJECT = """\
[project]
name = "toy"
version = "1.0.0"
dependencies = []
[tool.flwr.app]
publisher = "bench"
[tool.flwr.app.components]
serverapp = "toy.server:app"
clientapp = "toy.client:app"
[tool.flwr.app.config]
rounds = {rounds}
times = "{times}"
"""
SERVER = """\
import json, time
from pathlib import Path
import torch
from flwr.app import ArrayRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from toy.net import net

app = ServerApp()


@app.main()
def main(grid, context):
    times = []

    def note(number, arrays):
        times.append(time.time())
        Path(context.run_config["times"]).write_text(json.dumps(times))

    nodes = dict(min_train_nodes=3, min_available_nodes=3, min_evaluate_nodes=3)
    FedAvg(fraction_evaluate=0.0, **nodes).start(
        grid=grid, initial_arrays=ArrayRecord(net().state_dict()),
        num_rounds=context.run_config["rounds"], evaluate_fn=note,
    )
"""
CLIENT = """\
import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from toy.net import net

app = ClientApp()


@app.train()
def train(message, context):
    model = net()
    model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    torch.manual_seed(1)
    x, y = torch.randn(60, 6), torch.randint(0, 2, (60, 1)).float()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.zero_grad()
    torch.nn.functional.binary_cross_entropy_with_logits(model(x), y).backward()
    optimizer.step()
    content = {"arrays": ArrayRecord(model.state_dict()), "metrics": MetricRecord({"num-examples": 60})}
    return Message(RecordDict(content), reply_to=message)
"""
NET = """\
import torch


def net():
    return torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1))
"""


def stock_round_seconds(folder: Path, *, rounds: int, minutes: float = 15.0) -> list[float]:
    """Return the seconds of each round; `folder` is empty and has certificates made in folder/home."""
    app, home, times = folder / "app", folder / "home", folder / "times.json"
    (app / "toy").mkdir(parents=True)
    (app / "pyproject.toml").write_text(PYPROJECT.format(rounds=rounds, times=times))
    files = {"__init__": "", "server": SERVER, "client": CLIENT, "net": NET}
    for name, text in files.items():
        (app / "toy" / f"{name}.py").write_text(text)
    port = free_port()
    superlink = start_superlink(home, port, free_port())
    nodes: list[subprocess.Popen[bytes]] = []
    try:
        control = Control(home, port)
        while not control.is_ready():
            time.sleep(0.2)
        nodes = [_start_node(folder, number, port, control) for number in range(3)]
        while sum(node.online for node in control.nodes()) < 3:
            time.sleep(0.5)
        fab = build_fab_from_disk(app)
        control._client.StartRun(StartRunRequest(fab=Fab(content=fab)))
        ends = time.monotonic() + 60 * minutes
        seen: list[float] = []
        while len(seen) < rounds + 1 and time.monotonic() < ends:
            time.sleep(0.5)
            if times.is_file() and times.read_text():
                seen = json.loads(times.read_text())
        return [b - a for a, b in itertools.pairwise(seen)]
    finally:
        for node in nodes:
            end_process(node)
        end_process(superlink)


def _start_node(
    folder: Path, number: int, port: int, control: Control
) -> "subprocess.Popen[bytes]":
    key, path = ec.generate_private_key(ec.SECP256R1()), folder / f"node-{number}.key"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    path.chmod(0o600)
    control.register(public_transport_pem(key).encode(), f"node-{number}")
    tls, home = folder / "home" / TLS, folder / f"flower-{number}"
    home.mkdir()
    command = [
        str(BIN / "flower-supernode"),
        *("--root-certificates", str(tls / "authority.pem"), "--superlink", f"127.0.0.1:{port}"),
        *("--auth-supernode-private-key", str(path)),
        *("--ssl-ca-certfile", str(tls / "authority.pem")),
        *("--ssl-certfile", str(tls / "inside.pem"), "--ssl-keyfile", str(tls / "inside.key")),
        *("--host", "127.0.0.1", "--port", str(free_port())),
    ]
    own = {"FLWR_HOME": str(home), "OMP_NUM_THREADS": "1", "PATH": f"{BIN}:{os.environ['PATH']}"}
    with (folder / f"node-{number}.txt").open("wb") as log:
        return subprocess.Popen(
            command, stdout=log, stderr=log, start_new_session=True, env=os.environ | QUIET | own
        )

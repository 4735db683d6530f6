"""deploy/nginx.conf lets through what the service's own front lets through, and nothing else."""

import http.client
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab import patient_rows, write_table
from network.namespaces import QUIET, START, wait_until
from solblom_client.link.fleet import FleetConnection, FleetSettings
from solblom_client.link.transport_key import read_transport_key
from solblom_client.policy import load_node_config
from solblom_server.service.front import FLEET_CALLS, MAX_BODY_BYTES, UNKNOWN_KEY
from solblom_server.settings import free_port
from solblom_simulation.hospitals import SimulationPolicy, create_federation

CONF = Path(__file__).parents[2] / "deploy" / "nginx.conf"
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
needs_nginx = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
pytestmark = pytest.mark.xdist_group("nginx")  # set up once, in one worker
CLOSED = (
    "/",
    "/health",
    "/docs",
    "/openapi.json",
    "/v1/control/list-runs",
    "/v1/control/start-run",
    "/v1/control/list-nodes",
    "/v1/runtime/acquire-task",
    "/v1/fleet",
    "/v1/fleet/",
    "/v1/fleet/register-node",
    "/v1/fleet/unregister-node",
    "/v1/fleet/get-fab",
    "/v1/fleet/pull-messages/",
    "/v1/fleet/pull-messages/x",
    "/v1/fleet/../control/start-run",
    "/v1/fleet/%2e%2e/control/start-run",
    "/v1/fleet//../control/start-run",
    "/v1/fleet/pull-messages/../../control/start-run",
    "/v1/fleet/pull-messages%2f..%2f..%2fcontrol%2fstart-run",
)
_MAIN = """
daemon off;
user root;
pid {folder}/nginx.pid;
error_log {folder}/error.txt;
events {{ worker_connections 256; }}
http {{
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  include {folder}/site.conf;
}}
"""


def test_nginx_lets_the_same_calls_through_as_the_front() -> None:
    found = re.findall(r"location ~ \^/v1/fleet/\((.*?)\)\$ \{", CONF.read_text(encoding="utf-8"))
    assert [set(calls.split("|")) for calls in found] == [set(FLEET_CALLS)]


def test_every_other_location_of_nginx_is_a_404() -> None:
    text = CONF.read_text(encoding="utf-8")
    places = re.findall(r"location (.*?) \{\n(.*?)\n    \}", text, re.S)
    assert len(places) == 2
    assert (places[1][0], places[1][1].strip()) == ("/", "return 404;")


def test_nginx_takes_as_large_a_message_as_the_front() -> None:
    size = re.findall(r"client_max_body_size (\d+)m;", CONF.read_text(encoding="utf-8"))
    assert [int(text) * 1024**2 for text in size] == [MAX_BODY_BYTES]


def test_nginx_believes_the_front_by_its_certificate_only() -> None:
    text = CONF.read_text(encoding="utf-8")
    assert "proxy_pass https://solblom_front;" in text
    assert "proxy_ssl_verify on;" in text
    assert "proxy_pass http:" not in text


@dataclass
class Site:
    """A coordinator's service behind nginx."""

    home: Path
    port: int

    def ask(self, method: str, path: str, body: bytes = b"") -> int:
        """Return the status of one request; the path goes out as it stands."""
        context = ssl.create_default_context(cafile=self.home / "tls/authority.pem")
        line = http.client.HTTPSConnection("127.0.0.1", self.port, context=context, timeout=20)
        try:
            line.request(method, path, body=body)
            return line.getresponse().status
        finally:
            line.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("nginx")
    home, outside, inside = folder / "federation", free_port(), free_port()
    write_table(folder / "north.csv", patient_rows(60, site="north"))
    address = f"127.0.0.1:{outside}"
    tables = {"north": folder / "north.csv"}
    create_federation(home, seed=3, tables=tables, policy=SimulationPolicy(), address=address)
    marker = home / "solblom.toml"
    text = marker.read_text().replace(f'listen = "{address}"', f'listen = "127.0.0.1:{inside}"')
    marker.write_text(text)
    conf = CONF.read_text(encoding="utf-8").replace("/var/lib/solblom-coordinator", str(home))
    conf = conf.replace("listen 8443 ssl;", f"listen {address} ssl;")
    conf = conf.replace("    listen [::]:8443 ssl;\n", "").replace(
        "127.0.0.1:8444", f"127.0.0.1:{inside}"
    )
    (folder / "site.conf").write_text(conf, encoding="utf-8")
    (folder / "nginx.conf").write_text(_MAIN.format(folder=folder), encoding="utf-8")
    log = folder / "words.txt"
    service = [sys.executable, "-c", START, "coordinator", "start", "--home", str(home)]
    nginx = [str(NGINX), "-p", str(folder), "-c", str(folder / "nginx.conf")]
    with log.open("wb") as output:
        started = [
            subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=os.environ | QUIET,
            )
            for words in (service, nginx)
        ]
    try:
        wait_until(
            f"the service is not ready: {log.read_text()}",
            lambda: "Hospitals reach this coordinator" in log.read_text(),
            seconds=90,
        )
        assert started[1].poll() is None, log.read_text()
        yield Site(home, outside)
    finally:
        for process in started:
            process.send_signal(signal.SIGTERM)
        for process in started:
            process.wait(timeout=40)


@pytest.mark.slow
@needs_nginx
@pytest.mark.parametrize("path", CLOSED)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_nginx_shows_nothing_but_the_fleet_calls(site: Site, method: str, path: str) -> None:
    assert site.ask(method, path) == 404


@pytest.mark.slow
@needs_nginx
@pytest.mark.parametrize("call", FLEET_CALLS)
def test_a_fleet_call_of_an_unknown_key_ends_at_the_front(site: Site, call: str) -> None:
    assert site.ask("POST", f"/v1/fleet/{call}") == UNKNOWN_KEY


@pytest.mark.slow
@needs_nginx
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS", "HEAD"])
def test_a_fleet_call_by_another_method_is_not_there(site: Site, method: str) -> None:
    assert site.ask(method, "/v1/fleet/pull-messages") == 404


@pytest.mark.slow
@needs_nginx
def test_a_message_of_a_chunks_size_passes_nginx_and_a_larger_one_does_not(site: Site) -> None:
    assert site.ask("POST", "/v1/fleet/push-object", bytes(6 * 1024**2)) == UNKNOWN_KEY
    assert site.ask("POST", "/v1/fleet/push-object", bytes(MAX_BODY_BYTES + 1)) == 413


@pytest.mark.slow
@needs_nginx
def test_an_enrolled_hospital_connects_through_nginx(site: Site) -> None:
    config = load_node_config(site.home / "sites" / "north")
    settings = FleetSettings(
        url=str(config.coordinator.url),
        certificates=config.path(str(config.coordinator.ca_file)),
        proxy=None,
        key=read_transport_key(config),
    )
    connection = FleetConnection(settings)
    try:
        assert connection.connect() != 0
        assert connection.next_head() is None
        connection.leave()
    finally:
        connection.close()

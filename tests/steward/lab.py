"""A real page over a copy of a real run's folder, and what attacks it."""

import http.client
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from solblom_server.steward.languages import Language, texts
from solblom_server.steward.scene import Scene
from solblom_server.steward.serving import PageServer
from solblom_server.steward.session import COOKIE
from solblom_server.steward.verification import Verifier

NAME = "heart-disease"
MODEL = f"/models/{NAME}/v1"
MODEL_VIEWS = ("", "/evaluation", "/lineage", "/updates", "/signatures", "/card", "/verify")


@dataclass(frozen=True)
class Answer:
    """What the page answered."""

    status: int
    headers: dict[str, str]
    body: str


@dataclass
class Page:
    """A running page, and the cookie of whoever opened it."""

    server: PageServer
    cookie: str = ""

    @property
    def address(self) -> str:
        return self.server.link.partition("/?")[0]

    @property
    def token(self) -> str:
        return self.server.link.partition("token=")[2]

    def ask(
        self, path: str, *, method: str = "GET", cookie: str | None = None, **headers: str
    ) -> Answer:
        """Send one request as it is given: the path is not made tidy, Host can be any."""
        host = urlsplit(self.address).netloc
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=30)
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        sent = {"Host": host} | {name.replace("_", "-"): value for name, value in headers.items()}
        chosen = self.cookie if cookie is None else cookie
        if chosen:
            sent["Cookie"] = chosen
        for name, value in sent.items():
            if value:
                connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()
        body = response.read().decode()
        found = Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, body)
        connection.close()
        return found

    def enter(self) -> Answer:
        """Open the link of the terminal, as the first browser does."""
        answer = self.ask(f"/?token={self.token}", cookie="")
        self.cookie = answer.headers.get("set-cookie", "").partition(";")[0]
        assert self.cookie.startswith(f"{COOKIE}=")
        return answer


def scene_of(home: Path, language: Language = "en", *comparisons: Path) -> Scene:
    return Scene(home, Verifier(home / "trust.json"), texts(language), comparisons)


@contextmanager
def serving(scene: Scene) -> Iterator[Page]:
    """Run a page in a thread of its own."""
    server = PageServer(scene, port=0)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield Page(server)
    finally:
        server.stop()
        thread.join(timeout=30)
        server.close()


def copy_of(home: Path, target: Path) -> Path:
    """Return a copy of what a coordinator has: no hospital's folder is in it."""
    kept = ("sites", "studies", "generated", "keys")
    shutil.copytree(home, target, ignore=shutil.ignore_patterns(*kept))
    return target


def tamper(home: Path) -> Path:
    """Claim a better figure in the evaluation of the model, as somebody with access to the folder would."""
    report = home / "models" / f"{NAME}-v1" / "evaluation/report.json"
    text = report.read_text()
    assert text.count('"accuracy":0.') > 1
    report.write_text(text.replace('"accuracy":0.', '"accuracy":0.9', 1))
    return report

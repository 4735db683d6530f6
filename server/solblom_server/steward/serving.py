"""The page's server: one socket on loopback, and a link for the terminal."""

import socket
from collections.abc import Callable

import uvicorn

from solblom_models.accountant import pld_epsilon
from solblom_protocol.errors import ConfigurationError
from solblom_server.steward.app import steward_app
from solblom_server.steward.artefact_files import folders_newest_first
from solblom_server.steward.drawing import draw
from solblom_server.steward.scene import Scene
from solblom_server.steward.session import TOKEN, Door

LOOPBACK = "127.0.0.1"


class PageServer:
    """A page over a folder, bound to loopback and not answering yet."""

    def __init__(self, scene: Scene, *, port: int) -> None:
        self._scene = scene
        self._socket = _listen(port)
        self.host, self.port = (
            str(self._socket.getsockname()[0]),
            int(self._socket.getsockname()[1]),
        )
        door = Door(self.port)
        self.link = f"http://{LOOPBACK}:{self.port}/?{TOKEN}={door.token}"
        # No access log: it would write down the token. No proxy headers: nobody stands in front.
        settings = uvicorn.Config(
            steward_app(scene, door), access_log=False, log_level="warning", proxy_headers=False,
            http="h11", ws="none", server_header=False, lifespan="off", timeout_keep_alive=5, limit_concurrency=64,
        )  # fmt: skip
        self._server = uvicorn.Server(settings)

    def run(self) -> None:
        """Answer until told to stop; verify what is in the registry meanwhile."""
        folders = [folder for _, _, folder in folders_newest_first(self._scene.models)]
        self._scene.verifier.start(folders, afterwards=_warm_up)
        self._server.run(sockets=[self._socket])

    def stop(self) -> None:
        """End `run` after the answers at hand."""
        self._server.should_exit = True

    def close(self) -> None:
        """Let go of the port, once `run` has ended."""
        self._socket.close()


def serve_page(scene: Scene, *, port: int, ready: Callable[[str], None]) -> None:
    """Serve the page until a person ends it; `ready` gets the link that opens it once.

    Raises:
        ConfigurationError: SB-461, the port is taken.
        KeyboardInterrupt: a person ended it.
    """
    server = PageServer(scene, port=port)
    try:
        ready(server.link)
        server.run()
        # Only a signal ends it; whether uvicorn raises it again depends on the moment at which it came.
        raise KeyboardInterrupt
    finally:
        server.close()


def _listen(port: int) -> socket.socket:
    # There is no option for another address: the page has no password and no TLS.
    opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((LOOPBACK, port))
        opened.listen(64)  # who asks before `run` waits
    except OSError as error:
        opened.close()
        raise ConfigurationError(
            "SB-461", f"Port {port} of {LOOPBACK} cannot be used: {error.strerror}"
        ) from None
    return opened


def _warm_up() -> None:
    """Load what takes seconds to load, so that the first picture and the first epsilon need not wait for it."""
    draw(lambda axes: None, height=1.0, title="")
    pld_epsilon([], 1e-5)

"""A server on 127.0.0.1 that speaks as much of the Docker API as listing and removing takes.

It runs no containers: what the driver asks of a real engine is tested in tests/integration. Here
the docker SDK is real, and so is what it sends.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class ToyEngine:
    """Containers and images by id, as the API lists them, and what was asked for."""

    containers: dict[str, dict[str, Any]] = field(default_factory=dict)
    images: dict[str, dict[str, Any]] = field(default_factory=dict)
    volumes: dict[str, dict[str, Any]] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)
    posted: list[str] = field(default_factory=list)
    """What was asked for besides: builds, imports, pulls. None of it is done."""
    fail: int = 0
    """A status to answer everything with, once the connection stands."""
    info: dict[str, Any] = field(default_factory=dict)
    """What it says of itself."""
    silent: threading.Event = field(default_factory=threading.Event)
    """While set, no question is answered."""
    address: str = ""
    components: list[str] = field(default_factory=list)
    """Names of its parts, by which Podman is known."""

    def container(self, name: str, labels: dict[str, str], status: str = "exited") -> None:
        self.containers[name] = {
            "Id": name,
            "Name": name,
            "Config": {"Labels": labels},
            "State": {"Status": status},
        }

    def volume(self, name: str, labels: dict[str, str]) -> None:
        self.volumes[name] = {"Name": name, "Labels": labels}

    def image(self, name: str, labels: dict[str, str], tags: tuple[str, ...] = ()) -> None:
        self.images[name] = {"Id": name, "RepoTags": list(tags), "Config": {"Labels": labels}}


def _handler(engine: ToyEngine) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def _say(self, data: Any, status: int = 200) -> None:
            body = b"" if data is None else json.dumps(data).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _path(self) -> tuple[str, dict[str, Any]]:
            url = urlsplit(self.path)
            query = parse_qs(url.query)
            filters = json.loads(query.get("filters", ["{}"])[0])
            return unquote(re.sub(r"^/v[\d.]+", "", url.path)), filters

        def do_GET(self) -> None:
            while engine.silent.is_set():
                threading.Event().wait(0.02)
            path, filters = self._path()
            if path == "/version":
                parts = [{"Name": name} for name in engine.components]
                self._say({"ApiVersion": "1.41", "Version": "0", "Components": parts})
            elif path == "/_ping":
                self._say("OK")
            elif engine.fail:
                self._say({"message": "out of order"}, engine.fail)
            elif path == "/info":
                self._say(engine.info)
            elif path == "/containers/json":
                found = engine.containers.values()
                wanted = filters.get("label", [])
                self._say(
                    [
                        {"Id": item["Id"]}
                        for item in found
                        if all(label in item["Config"]["Labels"] for label in wanted)
                    ]
                )
            elif path == "/volumes":
                self._say({"Volumes": list(engine.volumes.values())})
            elif path == "/images/json":
                self._say(
                    [
                        {**engine.images[name], "Labels": engine.images[name]["Config"]["Labels"]}
                        for name in self._images(filters)
                    ]
                )
            elif match := re.fullmatch(r"/(containers|images)/(.+)/json", path):
                held = engine.containers if match[1] == "containers" else engine.images
                known = held.get(match[2])
                missing = {"message": f"No such {match[1][:-1]}: {match[2]}"}
                self._say(known or missing, 200 if known else 404)
            else:
                self._say({"message": f"not in this toy: {path}"}, 501)

        def _images(self, filters: dict[str, Any]) -> list[str]:
            found = []
            for name, item in engine.images.items():
                labels = all(
                    label in item["Config"]["Labels"] for label in filters.get("label", ())
                )
                prefixes = tuple(text.rstrip("*") for text in filters.get("reference", ()))
                # Podman, too, finds its own names without the "localhost/" before them.
                tags = [tag.removeprefix("localhost/") for tag in item["RepoTags"]]
                named = not prefixes or any(tag.startswith(prefixes) for tag in tags)
                if labels and named:
                    found.append(name)
            return found

        def do_POST(self) -> None:
            path, _ = self._path()
            engine.posted.append(path)
            self.close_connection = True  # whatever it was to be made of was not read
            self._say({"message": f"not in this toy: {path}"}, 501)

        def do_DELETE(self) -> None:
            path, _ = self._path()
            _, kind, name = path.split("/", 2)
            engine.removed.append(name)
            held = {"containers": engine.containers, "volumes": engine.volumes}
            held.get(kind, engine.images).pop(name, None)
            self._say([] if kind == "images" else None, 200 if kind == "images" else 204)

    return Handler


@contextlib.contextmanager
def serve() -> Iterator[ToyEngine]:
    """A running toy engine; its ``address`` is for ``DOCKER_HOST``."""
    engine = ToyEngine()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(engine))
    server.daemon_threads = True
    engine.address = f"tcp://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield engine
    finally:
        engine.silent.clear()
        server.shutdown()
        server.server_close()

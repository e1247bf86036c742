"""Stores for tests: one in memory that fails when it is told to, and S3 on loopback with its requests counted."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import fsspec
from fsspec.asyn import AsyncFileSystem

from torchboard.eventfile.names import MARK


@dataclass
class Store:
    """What a store holds, how it fares, and what was asked of it.

    Attributes:
        objects: path -> bytes.
        failures: how many puts fail from now on.
        fault: how they fail.
        lists: whether it says what it holds.
        open: while it is not set, puts wait.
        puts: path and size of every put that succeeded, in order.
        tries: how many puts there were, failed ones included.
    """

    objects: dict[str, bytes] = field(default_factory=dict)
    failures: float = 0
    fault: Exception = field(default_factory=lambda: ConnectionError("the network is gone"))
    lists: bool = True
    open: threading.Event = field(default_factory=threading.Event)
    puts: list[tuple[str, int]] = field(default_factory=list)
    tries: int = 0

    def put(self, path: str, data: bytes) -> None:
        self.tries += 1
        assert self.open.wait(60)
        if self.failures:
            self.failures -= 1
            raise self.fault
        self.objects[path] = bytes(data)
        self.puts.append((path, len(data)))

    def names(self, directory: str) -> list[str]:
        """Names of the event files in a directory, in order."""
        found = [path.rpartition("/") for path in sorted(self.objects)]
        return [name for parent, _, name in found if parent == directory and MARK in name]

    def download(self, directory: Path) -> Path:
        """Copies everything to a local directory."""
        for path, data in self.objects.items():
            target = directory / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        return directory


@contextmanager
def faulty() -> Iterator[Store]:
    """A fresh store behind ``faulty://``, with a client that blocks, and ``silent://``, which never answers a put."""
    store = Store()
    store.open.set()

    class Faulty(fsspec.AbstractFileSystem):
        protocol = "faulty"
        cachable = False

        def pipe_file(self, path, value, mode="overwrite", **kwargs):
            store.put(self._strip_protocol(path), value)

        def ls(self, path, detail=True, **kwargs):
            if not store.lists:
                raise PermissionError("listing is not allowed")
            below = path.rstrip("/") + "/"
            names = {below + rest.removeprefix(below).split("/")[0] for rest in store.objects if rest.startswith(below)}
            if not names:
                raise FileNotFoundError(path)
            return sorted(names)

    class Silent(AsyncFileSystem):
        protocol = "silent"
        cachable = False

        async def _pipe_file(self, path, value, mode="overwrite", **kwargs):
            import asyncio

            store.tries += 1
            await asyncio.sleep(3600)

        async def _ls(self, path, detail=True, **kwargs):
            return []

    for client in (Faulty, Silent):
        fsspec.register_implementation(client.protocol, client, clobber=True)
    try:
        yield store
    finally:
        store.open.set()


@dataclass
class Requests:
    """What a server was asked since the last ``clear``: (method, bytes of the body) of each request."""

    asked: list[tuple[str, int]] = field(default_factory=list)

    def clear(self) -> None:
        self.asked.clear()

    def puts(self) -> list[int]:
        return [size for method, size in self.asked if method == "PUT"]


@contextmanager
def s3_server() -> Iterator[tuple[str, Requests]]:
    """An S3 of moto's on a free port of loopback, in a thread, with its address and the requests it was asked."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    requests, app = Requests(), DomainDispatcherApplication(create_backend_app)

    def counted(environ, start_response):
        requests.asked.append((environ["REQUEST_METHOD"], int(environ.get("CONTENT_LENGTH") or 0)))
        return app(environ, start_response)

    server = make_server("127.0.0.1", 0, counted, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

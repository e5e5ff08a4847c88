"""A relay between a client and a server that counts what the client sends, which is its round trips."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Self
from urllib.parse import urlsplit


class Relay:
    """Listens on loopback in front of the server of a URL.

    Attributes:
        url: the server's, by way of the relay.
        sent: messages of clients; libpq waits for an answer after each.
        closes_next: True to close the connection of the next message in place of an answer.
        loses_answer: words that a connection's messages must hold one after the other; the server gets the message with
            the last one, whose answer is lost with the connection.
    """

    def __init__(self, url: str):
        parts = urlsplit(url)
        assert parts.hostname
        assert parts.port
        self._server = parts.hostname, parts.port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = url.replace(f"{parts.hostname}:{parts.port}", f"127.0.0.1:{self._listener.getsockname()[1]}")
        self.sent, self.closes_next, self.loses_answer = 0, False, list[bytes]()
        self._connections: list[socket.socket] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop()

    def drop(self) -> None:
        """Ends all connections."""
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        self._connections.clear()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, server = self._listener.accept()[0], socket.create_connection(self._server)
                self._connections += client, server
                lost = threading.Event()
                threading.Thread(target=self._pass, args=(client, server, lost, 1), daemon=True).start()
                threading.Thread(target=self._pass, args=(server, client, lost, 0), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, lost: threading.Event, counted: int) -> None:
        seen = 0  # of the words of `loses_answer`
        for data in _received(source):
            self.sent += counted
            if counted and self.closes_next:
                self.closes_next = False
                break
            if not counted and lost.is_set():
                break
            while counted and seen < len(self.loses_answer) and self.loses_answer[seen] in data:
                seen += 1
            if counted and self.loses_answer and seen == len(self.loses_answer):
                self.loses_answer = []
                lost.set()
            with contextlib.suppress(OSError):
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def _received(source: socket.socket) -> Iterator[bytes]:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            yield data

"""A TCP relay that a test can make fall silent, as a network does that loses packets."""

import socket
import threading


class Relay:
    """Passes bytes between its clients and a port of the loopback interface, until it falls silent."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._sockets: list[socket.socket] = []
        self._silent: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def fall_silent(self) -> None:
        """Pass no more bytes over the present connections, which stay open; those to come are passed."""
        self._silent |= set(self._sockets)

    def close(self) -> None:
        """Close every connection."""
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for each in self._sockets:
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            try:
                service = socket.create_connection(("127.0.0.1", self._target))
            except OSError:  # it has ended
                client.close()
                continue
            self._sockets += [client, service]
            for source, sink in ((client, service), (service, client)):
                threading.Thread(target=self._pass, args=(source, sink), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65_536):
                if source not in self._silent:
                    sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            return

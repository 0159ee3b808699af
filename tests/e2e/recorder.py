# SPDX-License-Identifier: Apache-2.0
"""A TCP proxy that keeps what passes through it, for tests that read the wire: with tls: off as it
is, and with TLS where it is given the identities of both ends.

HTTP/2 sends messages in DATA frames, whose payload may be cut anywhere by the next frame's header;
`payloads()` puts each direction's DATA back together, stream by stream, so that a search finds what
straddles two frames. Headers are compressed (HPACK) and are left out there; `raw()` has everything.
"""
import os
import select
import socket
import ssl
import threading

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _PADDED = 0, 0x8


class Recorder:
    def __init__(self, port):
        self.target = ("127.0.0.1", port)
        self._lock = threading.Lock()
        self._sockets = []
        self._up, self._down = [], []  # a bytearray for each connection
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                child, _ = self._listener.accept()
            except OSError:
                return  # closed
            try:
                parent = socket.create_connection(self.target)
            except OSError:
                child.close()
                continue
            up, down = bytearray(), bytearray()
            with self._lock:
                self._sockets += [child, parent]
                self._up.append(up)
                self._down.append(down)
            threading.Thread(target=self._pump, args=(child, parent, up), daemon=True).start()
            threading.Thread(target=self._pump, args=(parent, child, down), daemon=True).start()

    def _pump(self, source, sink, record):
        try:
            while True:
                piece = source.recv(1 << 16)
                if not piece:
                    break
                with self._lock:
                    record += piece
                sink.sendall(piece)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def raw(self):
        """Everything sent upwards, one bytes object for each connection."""
        with self._lock:
            return [bytes(r) for r in self._up]

    def payloads(self):
        """What the DATA frames sent upwards carried, one bytes object for each stream."""
        return [body for raw in self.raw() for body in data_of(raw)]

    def payloads_down(self):
        """The same of what was sent downwards."""
        with self._lock:
            raw = [bytes(r) for r in self._down]
        return [body for one in raw for body in data_of(one)]

    def close(self):
        self._listener.close()
        with self._lock:
            for s in self._sockets:
                s.close()


class TlsRecorder(Recorder):
    """Between a child and its parent, with the key of each towards the other: `parent` and `child`
    are their Nodes."""

    def __init__(self, parent, child):
        self._server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        for context, node in ((self._server, parent), (self._client, child)):
            folder = os.path.join(node.dir, "identity")
            context.load_cert_chain(os.path.join(folder, "cert.pem"),
                                    os.path.join(folder, "key.pem"))
            context.load_verify_locations(os.path.join(folder, "ca.pem"))
            context.set_alpn_protocols(["h2"])
        self._server.verify_mode = ssl.CERT_REQUIRED
        self._name = parent.name
        super().__init__(parent.port)

    def _accept(self):
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._serve, args=(plain,), daemon=True).start()

    def _serve(self, plain):
        try:
            child = self._server.wrap_socket(plain, server_side=True)
            parent = self._client.wrap_socket(socket.create_connection(self.target),
                                              server_hostname=self._name)
        except OSError:
            plain.close()
            return
        up, down = bytearray(), bytearray()
        with self._lock:
            self._sockets += [child, parent]
            self._up.append(up)
            self._down.append(down)
        try:
            self._relay({child: (parent, up), parent: (child, down)})
        except (OSError, ValueError):
            pass  # one of them has gone
        for end in (child, parent):
            end.close()

    def _relay(self, ways):
        """In one thread: a TLS connection is not read and written at the same time."""
        while True:
            waiting = [s for s in ways if s.pending()]
            for source in waiting or select.select(list(ways), [], [])[0]:
                sink, record = ways[source]
                piece = source.recv(1 << 16)
                if not piece:
                    return
                with self._lock:
                    record += piece
                sink.sendall(piece)


def data_of(raw):
    """The DATA of each stream of one direction of an HTTP/2 connection."""
    streams, at = {}, 0
    if raw.startswith(_PREFACE):
        at = len(_PREFACE)
    while at + 9 <= len(raw):
        length = int.from_bytes(raw[at:at + 3], "big")
        kind, flags = raw[at + 3], raw[at + 4]
        stream = int.from_bytes(raw[at + 5:at + 9], "big") & 0x7fffffff
        body = raw[at + 9:at + 9 + length]
        if kind == _DATA:
            padding = body[0] if flags & _PADDED else 0
            body = body[1:len(body) - padding] if flags & _PADDED else body
            streams.setdefault(stream, bytearray()).extend(body)
        at += 9 + length
    return [bytes(s) for s in streams.values()]

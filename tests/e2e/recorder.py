# SPDX-License-Identifier: Apache-2.0
"""A TCP proxy that keeps what passes through it, for tests that read the wire (tls: off).

HTTP/2 sends messages in DATA frames, whose payload may be cut anywhere by the next frame's header;
`payloads()` puts each direction's DATA back together, stream by stream, so that a search finds what
straddles two frames. Headers are compressed (HPACK) and are left out there; `raw()` has everything.
"""
import socket
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

    def close(self):
        self._listener.close()
        with self._lock:
            for s in self._sockets:
                s.close()


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

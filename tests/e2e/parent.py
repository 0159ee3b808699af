# SPDX-License-Identifier: Apache-2.0
"""The parent's side of the edge in Python: what proto/tier.proto says, and nothing of the C library.

A Host listens with an edge.Identity and keeps what children do: a Child for every Attend call, on
which every message that came can be waited for, and a Delivery for every Push. What it serves is in
`contents`; a list of functions in `lies` answers the next fetches of a content instead, one each.

Messages go out as the caller gives them, well-formed or not: bytes are sent as they are.
"""
import queue
import threading
import time
from concurrent import futures

import grpc

import edge

CODE = grpc.StatusCode


class Child:
    """One Attend call of a child. Messages are kept in order until wait() takes them."""

    def __init__(self):
        self._out = queue.Queue()
        self._changed = threading.Condition()
        self.messages, self.ended = [], False
        self.name = None

    # -- the server's threads

    def take(self, messages):
        try:
            for m in messages:
                with self._changed:
                    self.messages.append(m)
                    self._changed.notify_all()
        except grpc.RpcError:
            pass
        self.end()

    def end(self):
        with self._changed:
            self.ended = True
            self._changed.notify_all()
        self._out.put(None)

    def outgoing(self):
        return iter(self._out.get, None)

    # -- the test's

    def send(self, **field):
        """send(welcome=Welcome(...)): one ToChild."""
        self._out.put(edge.as_bytes(edge.wire().ToChild(**field)))

    def send_bytes(self, data):
        self._out.put(data)

    def welcome(self, name, protocol=edge.PROTOCOL):
        self.send(welcome=edge.wire().Welcome(protocol=protocol, name=name))

    def wait(self, kind, accept=lambda m: True, timeout_s=edge.WAIT_S):
        """Takes the first message of that kind which `accept` wants."""
        end = time.monotonic() + timeout_s
        with self._changed:
            while True:
                for i, m in enumerate(self.messages):
                    if m.WhichOneof("message") == kind and accept(getattr(m, kind)):
                        del self.messages[i]
                        return getattr(m, kind)
                left = end - time.monotonic()
                if left <= 0 or self.ended:
                    raise AssertionError("no %s came; here: %s%s" % (
                        kind, self.messages[-8:], "; the stream has ended" if self.ended else ""))
                self._changed.wait(left)

    def count(self, kind, accept=lambda m: True):
        with self._changed:
            return sum(m.WhichOneof("message") == kind and accept(getattr(m, kind))
                       for m in self.messages)

    def wait_end(self, timeout_s=edge.WAIT_S):
        with self._changed:
            if not self._changed.wait_for(lambda: self.ended, timeout_s):
                raise AssertionError("the child does not end the stream")


class Delivery:
    """One Push: the update's id, where it began, and what came."""

    def __init__(self, pieces):
        self.id, self.offset, self.payload = None, 0, b""
        for piece in pieces:
            if self.id is None:
                self.id, self.offset = piece.id, piece.offset
            self.payload += piece.data


class Host:
    """A parent of that name at a port of its own. `answer(delivery, context)` gives a push its
    receipt."""

    def __init__(self, name, identity, answer=None):
        self.name, self.identity = name, identity
        self.contents, self.lies, self.fetched = {}, {}, []
        self.children, self.deliveries = queue.Queue(), []
        self.answer = answer or self.honest_answer
        self.offers = {}  # update id -> (header, child's name), for receipts
        self._server = grpc.server(futures.ThreadPoolExecutor(64), options=[
            ("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1),
            ("grpc.so_reuseport", 0), ("grpc.http2.max_ping_strikes", 0),
            ("grpc.http2.min_ping_interval_without_data_ms", 100)])
        pb = edge.wire()
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(
            "consilium.Tier", {
                "Attend": grpc.stream_stream_rpc_method_handler(
                    self._attend, request_deserializer=pb.FromChild.FromString),
                # A child sends its request once it knows by the initial metadata whom it talks to:
                # so this is a stream here, too.
                "Fetch": grpc.stream_stream_rpc_method_handler(
                    self._fetch, request_deserializer=pb.FetchRequest.FromString,
                    response_serializer=edge.as_bytes),
                "Push": grpc.stream_unary_rpc_method_handler(
                    self._push, request_deserializer=pb.Piece.FromString,
                    response_serializer=edge.as_bytes)}),))
        credentials = grpc.ssl_server_credentials([(identity.key, identity.cert)], identity.ca,
                                                  require_client_auth=True)
        self.port = self._server.add_secure_port("127.0.0.1:0", credentials)
        self._server.start()

    def close(self):
        self._server.stop(None)

    def _attend(self, messages, context):
        child = Child()
        context.add_callback(child.end)
        context.send_initial_metadata(())
        threading.Thread(target=child.take, args=(messages,), daemon=True).start()
        self.children.put(child)
        return child.outgoing()

    def _fetch(self, requests, context):
        context.send_initial_metadata(())
        request = next(requests)
        self.fetched.append((request.sha256, request.offset))
        lies = self.lies.get(request.sha256)
        if lies:
            yield from lies.pop(0)(request, context)
            return
        data = self.contents.get(request.sha256)
        if data is None:
            context.abort(CODE.NOT_FOUND, "no such content")
        if request.offset > len(data):
            context.abort(CODE.INVALID_ARGUMENT, "an offset past the end of the file")
        yield from pieces(data, request.offset)

    def _push(self, messages, context):
        context.send_initial_metadata(())
        delivery = Delivery(messages)
        self.deliveries.append(delivery)
        return self.answer(delivery, context)

    def receipt(self, header, child, **changes):
        """The receipt for an offered header, signed after `changes`; `signature` is among them."""
        fields = dict(run=header[16:48], round=int.from_bytes(header[48:56], "little"),
                      update=edge.sha256(header), child=child, parent=self.name,
                      weight=int.from_bytes(header[120:128], "little"), time_ms=1)
        signature = changes.pop("signature", None)
        fields.update(changes)
        r = edge.wire().Receipt(**fields)
        edge.sign_receipt(r, self.identity.folder + "/key.pem")
        if signature is not None:
            r.signature = signature
        return r

    def honest_answer(self, delivery, _context):
        header, child = self.offers[delivery.id]
        return self.receipt(header, child)

    def next_child(self, welcome=True, timeout_s=edge.WAIT_S):
        """The next stream that a child opens and says hello on, unless it is over by then."""
        end = time.monotonic() + timeout_s
        while True:
            try:
                child = self.children.get(timeout=max(0, end - time.monotonic()))
            except queue.Empty:
                raise AssertionError("no child attends") from None
            if child.ended:
                continue
            hello = child.wait("hello")
            if hello.protocol != edge.PROTOCOL:
                raise AssertionError("hello with protocol %d" % hello.protocol)
            child.name = hello.name
            if welcome:
                child.welcome(self.name)
            return child

    def take_offer(self, child, accept=lambda header: True):
        """The header of the next offer."""
        header = child.wait("offer", lambda o: accept(o.header)).header
        self.offers[edge.sha256(header)] = (header, child.name)
        return header

    def put(self, data):
        """Serves that content from now on; its name."""
        name = edge.sha256(data)
        self.contents[name] = data
        return name


def pieces(data, offset=0, total=None, at=None):
    """The pieces of a fetch. `total` and `at` (the offset that the pieces claim) may be wrong."""
    pb, first = edge.wire(), True
    shift = 0 if at is None else at - offset
    while first or offset < len(data):
        yield pb.Piece(offset=offset + shift, data=data[offset:offset + edge.CHUNK],
                       total=(len(data) if total is None else total) if first else 0)
        offset, first = offset + edge.CHUNK, False

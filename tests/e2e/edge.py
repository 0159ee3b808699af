# SPDX-License-Identifier: Apache-2.0
"""The child's side of the edge in Python: what proto/tier.proto says, and nothing of the C library.

An Identity is a folder with key.pem, cert.pem and ca.pem. A Parent is a connection to a hub; its
attend() gives a Stream, on which every message that came can be waited for. Files are read and made
by hand here: manifests, update files, packed sums and .safetensors, as tier/*.h documents them, so
that a test which passes proves the documents as much as the programs.

Messages go out as the caller gives them, well-formed or not: bytes are sent as they are.
"""
import hashlib
import importlib
import json
import os
import queue
import struct
import subprocess
import sys
import tempfile
import threading
import time

import grpc

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PROTOCOL = 2
CHUNK = 1 << 20
LEAF = 64 << 10
SEGMENT = 256 << 10
BLOCK = 256
F32, SUM, F16, BF16, Q8, Q4, TOP_K, ONE_BIT = range(1, 9)
WAIT_S = 20

_generated = None


def wire():
    """The protobuf module of proto/tier.proto, generated once a process."""
    global _generated
    if _generated is None:
        with tempfile.TemporaryDirectory(prefix="consilium-proto-") as folder:
            subprocess.run(["protoc", "-I", os.path.join(ROOT, "proto"), "--python_out", folder,
                            os.path.join(ROOT, "proto", "tier.proto")], check=True)
            sys.path.insert(0, folder)
            try:
                _generated = importlib.import_module("tier_pb2")
            finally:
                sys.path.remove(folder)
    return _generated


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def read_file(*path):
    with open(os.path.join(*path), "rb") as f:
        return f.read()


# ---- files ----------------------------------------------------------------------------------


def merkle(payload):
    """The root of tier/hash.h: leaves of 64 KiB, an odd node moves up unchanged."""
    if not payload:
        return sha256()
    level = [sha256(b"\0", payload[i:i + LEAF]) for i in range(0, len(payload), LEAF)]
    while len(level) > 1:
        above = [sha256(b"\1", level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level = above + level[len(above) * 2:]
    return level[0]


class Model:
    """A .safetensors file of float32 tensors: `tensors` is [(name, shape)] in the order of their
    data, `values` all elements one after the other."""

    def __init__(self, data):
        header_bytes, = struct.unpack_from("<Q", data)
        header = json.loads(data[8:8 + header_bytes])
        header.pop("__metadata__", None)
        placed = sorted(header.items(), key=lambda item: item[1]["data_offsets"])
        body = data[8 + header_bytes:]
        end = 0
        for name, entry in placed:
            if entry["dtype"] != "F32" or entry["data_offsets"][0] != end:
                raise ValueError("tensor %s: dtype or place" % name)
            end = entry["data_offsets"][1]
        if end != len(body):
            raise ValueError("%d bytes of data, %d in the header" % (len(body), end))
        self.tensors = [(name, entry["shape"]) for name, entry in placed]
        self.values = list(struct.unpack("<%df" % (len(body) // 4), body))

    def manifest_text(self, frac_bits):
        lines = ["consilium manifest 1\n"]
        for name, shape in self.tensors:
            dims = "x".join(map(str, shape)) if shape else "scalar"
            lines.append("f=%d narrow %s %s\n" % (frac_bits, dims, name))
        return "".join(lines).encode()

    def manifest(self, frac_bits):
        return sha256(self.manifest_text(frac_bits))


def safetensors(tensors, values, metadata=None):
    """The bytes of such a file, for a parent that publishes its own."""
    header, at = {}, 0
    if metadata:
        header["__metadata__"] = metadata
    for name, shape in tensors:
        count = 1
        for n in shape:
            count *= n
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + 4 * count]}
        at += 4 * count
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + struct.pack("<%df" % len(values), *values)


def quantise(x, frac_bits):
    """round(x * 2^f), half to even: a power of two scales a double exactly."""
    return round(x * 2.0 ** frac_bits)


def pack(values):
    """Packed sums of tier/codec.h: blocks of 256, a width byte and the values at that width."""
    out = bytearray()
    for at in range(0, len(values), BLOCK):
        block = values[at:at + BLOCK]
        width = 0 if not any(block) else max((v if v >= 0 else ~v).bit_length() for v in block) + 1
        bits = 0
        for i, v in enumerate(block):
            bits |= (v & ((1 << width) - 1)) << (i * width)
        out.append(width)
        out += bits.to_bytes((width * len(block) + 7) // 8, "little")
    return bytes(out)


def sum_payload(sums):
    """The payload of a SUM update without wide tensors: packed segments, then their lengths."""
    segments = [pack(sums[at:at + SEGMENT]) for at in range(0, len(sums), SEGMENT)]
    return b"".join(segments) + b"".join(struct.pack("<I", len(s)) for s in segments)


def f32_payload(values):
    return struct.pack("<%df" % len(values), *values)


def f16_payload(values, frac_bits):
    """binary16 in units of 2^(15 - f), so that the clip is 2^15."""
    return struct.pack("<%de" % len(values), *(x * 2.0 ** (frac_bits - 15) for x in values))


def varint(value):
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7f | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def metrics(vectors):
    """The canonical bytes of tier/metric.c for {name: [integers]}."""
    out = bytearray(varint(len(vectors)))
    for name in sorted(vectors):
        bins = vectors[name]
        out += varint(len(name)) + name.encode() + varint(len(bins))
        at = 0
        while at < len(bins):
            run = at
            while run < len(bins) and bins[run] == 0:
                run += 1
            out += varint(run - at)
            at = run
            while run < len(bins) and bins[run] != 0:
                run += 1
            if run > at:
                out += varint(run - at)
                for v in bins[at:run]:
                    out += varint(v << 1 if v >= 0 else (-v << 1) - 1)
            at = run
    return bytes(out)


class Update:
    """An update file: `header` as it travels (tier/update.h), its SHA-256 `id`, and the payload.
    Any field may be given a wrong value by name: `payload_bytes`, `root`, `version`."""

    def __init__(self, run, round_number, manifest, base, weight, payload, encoding=F32,
                 metrics_bytes=b"", saturated=0, **wrong):
        self.run, self.round, self.weight, self.payload = run, round_number, weight, payload
        length = wrong.get("length", 184 + len(metrics_bytes))
        self.header = b"".join((
            wrong.get("magic", b"consupd1"), struct.pack("<II", wrong.get("version", 1), length),
            run, struct.pack("<Q", round_number), manifest, base, struct.pack("<Q", weight),
            struct.pack("<I", encoding), struct.pack("<Q", saturated),
            struct.pack("<Q", wrong.get("payload_bytes", len(payload))),
            wrong.get("root", merkle(payload)), struct.pack("<I", len(metrics_bytes)),
            metrics_bytes))
        self.id = sha256(self.header)


class UpdateFile:
    """A sealed file of a spool, read back."""

    def __init__(self, data):
        length, = struct.unpack_from("<I", data, 12)
        self.header = data[:length]
        self.id = sha256(self.header)
        self.run, = struct.unpack_from("32s", data, 16)
        self.round, = struct.unpack_from("<Q", data, 48)
        self.weight, self.encoding = struct.unpack_from("<QI", data, 120)
        payload_bytes, self.root = struct.unpack_from("<Q32s", data, 140)
        at = -(-length // 4096) * 4096
        self.payload = data[at:at + payload_bytes]
        if merkle(self.payload) != self.root:
            raise ValueError("the payload is not the header's")

    def floats(self, frac_bits=30):
        if self.encoding == F16:
            halves = struct.unpack("<%de" % (len(self.payload) // 2), self.payload)
            return [h * 2.0 ** (15 - frac_bits) for h in halves]
        return struct.unpack("<%df" % (len(self.payload) // 4), self.payload)


# ---- who we are -----------------------------------------------------------------------------


class Identity:
    def __init__(self, folder):
        """`folder` holds key.pem, cert.pem, ca.pem: DATA_DIR/identity of a node."""
        self.folder = folder
        self.key, self.cert, self.ca = (read_file(folder, name)
                                        for name in ("key.pem", "cert.pem", "ca.pem"))


def openssl(*arguments, stdin=None, check=True):
    return subprocess.run(["openssl", *arguments], input=stdin, capture_output=True, check=check)


def forge(folder, authority, name, role="spoke", spiffe_authority="test-authority",
          start="20200101000000Z", end="20400101000000Z"):
    """An identity made with openssl and the key of an authority's folder (ca.key, ca.pem): with
    any name, role and dates. Returns the Identity."""
    os.makedirs(folder, exist_ok=True)
    conf = os.path.join(folder, "openssl.cnf")
    key, cert, request = (os.path.join(folder, n) for n in ("key.pem", "cert.pem", "csr.pem"))
    with open(conf, "w", encoding="ascii") as f:
        f.write("[ca]\ndefault_ca=d\n[d]\nnew_certs_dir=%s\ndatabase=%s/index\nrand_serial=yes\n"
                "default_md=sha256\npolicy=p\nunique_subject=no\nemail_in_dn=no\n"
                "[p]\ncommonName=supplied\n[req]\ndistinguished_name=n\nprompt=no\n[n]\nCN=%s\n"
                "[x]\nbasicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n"
                "extendedKeyUsage=serverAuth,clientAuth\n"
                "subjectAltName=URI:spiffe://%s/%s/%s,DNS:%s\n" %
                (folder, folder, name, spiffe_authority, role, name, name))
    open(os.path.join(folder, "index"), "w", encoding="ascii").close()
    openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", key)
    openssl("req", "-new", "-key", key, "-config", conf, "-out", request)
    openssl("ca", "-batch", "-config", conf, "-in", request, "-out", cert, "-notext",
            "-startdate", start, "-enddate", end, "-extensions", "x", "-cert",
            os.path.join(authority, "ca.pem"), "-keyfile", os.path.join(authority, "ca.key"))
    with open(os.path.join(folder, "ca.pem"), "wb") as f:
        f.write(read_file(authority, "ca.pem"))
    return Identity(folder)


def receipt_text(r):
    """What a receipt's signature covers (tier_receipt_text)."""
    return ("consilium receipt 1\nrun %s\nround %d\nupdate %s\nchild %s\nparent %s\nweight %d\n"
            "time_ms %d\n%s" % (r.run.hex(), r.round, r.update.hex(), r.child, r.parent, r.weight,
                                r.time_ms, "counted %d\n" % r.counted if r.counted else "")
            ).encode()


def receipt_signed_by(r, cert_path):
    """Whether the key of that certificate signed the receipt."""
    with tempfile.TemporaryDirectory(prefix="consilium-receipt-") as folder:
        paths = [os.path.join(folder, n) for n in ("key", "sig", "text")]
        public = openssl("x509", "-in", cert_path, "-noout", "-pubkey").stdout
        for path, data in zip(paths, (public, r.signature, receipt_text(r))):
            with open(path, "wb") as f:
                f.write(data)
        return openssl("dgst", "-sha256", "-verify", paths[0], "-signature", paths[1], paths[2],
                       check=False).returncode == 0


def sign_receipt(r, key_path):
    """Fills in the signature, as a parent does."""
    r.signature = openssl("dgst", "-sha256", "-sign", key_path, stdin=receipt_text(r)).stdout


# ---- the edge -------------------------------------------------------------------------------


def as_bytes(message):
    return message if isinstance(message, bytes) else message.SerializeToString()


class Stream:
    """One Attend call. Messages that came are kept in order until wait() takes them."""

    def __init__(self, call_method, read=True):
        self._out = queue.Queue()
        self._changed = threading.Condition()
        self.messages = []
        self.code = self.details = None
        self._call = call_method(iter(self._out.get, None))
        self._reader = threading.Thread(target=self._read, daemon=True)
        if read:
            self._reader.start()

    def _read(self):
        try:
            for m in self._call:
                with self._changed:
                    self.messages.append(m)
                    self._changed.notify_all()
            code, details = grpc.StatusCode.OK, ""
        except grpc.RpcError as e:
            code, details = e.code(), e.details()
        with self._changed:
            self.code, self.details = code, details
            self._changed.notify_all()

    def send(self, **field):
        """send(hello=Hello(...)): one FromChild."""
        self._out.put(as_bytes(wire().FromChild(**field)))

    def send_bytes(self, data):
        self._out.put(data)

    def hello(self, name, protocol=PROTOCOL):
        self.send(hello=wire().Hello(protocol=protocol, name=name, software="python"))

    def offer(self, update):
        self.send(offer=wire().Offer(header=update.header))

    def wait(self, kind, accept=lambda m: True, timeout_s=WAIT_S):
        """Takes the first message of that kind which `accept` wants."""
        return self.wait_any({kind: accept}, timeout_s)

    def wait_any(self, kinds, timeout_s=WAIT_S):
        """Takes the first message of any of these kinds which its `accept` wants."""
        end = time.monotonic() + timeout_s
        with self._changed:
            while True:
                for i, m in enumerate(self.messages):
                    kind = m.WhichOneof("message")
                    body = getattr(m, kind)
                    if kind in kinds and kinds[kind](body):
                        del self.messages[i]
                        return body
                left = end - time.monotonic()
                if left <= 0 or self.code is not None:
                    raise AssertionError("no %s came; here: %s; the stream: %s %s" % (
                        " or ".join(kinds), [m.WhichOneof("message") for m in self.messages], self.code,
                        self.details))
                self._changed.wait(left)

    def wait_end(self, timeout_s=WAIT_S):
        """(status code, text) the parent ended the stream with."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.code is not None, timeout_s):
                raise AssertionError("the stream does not end")
            return self.code, self.details

    def half_close(self):
        self._out.put(None)

    def cancel(self):
        self._call.cancel()
        self._out.put(None)


class Parent:
    """A child's connection to the hub at 127.0.0.1:`port` whose certificate says `name`."""

    def __init__(self, port, name, identity, options=()):
        credentials = grpc.ssl_channel_credentials(identity.ca, identity.key, identity.cert)
        self.channel = grpc.secure_channel(
            "127.0.0.1:%d" % port, credentials,
            [("grpc.ssl_target_name_override", name), ("grpc.use_local_subchannel_pool", 1),
             ("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1),
             *options])
        pb = wire()
        self.stream_method = self.channel.stream_stream(
            "/consilium.Tier/Attend", response_deserializer=pb.ToChild.FromString)
        self.push_method = self.channel.stream_unary(
            "/consilium.Tier/Push", request_serializer=as_bytes,
            response_deserializer=pb.Receipt.FromString)
        self.fetch_method = self.channel.unary_stream(
            "/consilium.Tier/Fetch", request_serializer=as_bytes,
            response_deserializer=pb.Piece.FromString)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.channel.close()

    def open_stream(self, **options):
        return Stream(self.stream_method, **options)

    def attend(self, name):
        """A stream whose hello has been welcomed."""
        stream = self.open_stream()
        stream.hello(name)
        stream.wait("welcome")
        return stream

    def fetch(self, content, offset=0):
        """All bytes of the content from the offset on."""
        pieces = self.fetch_method(wire().FetchRequest(sha256=content, offset=offset),
                                   timeout=WAIT_S)
        data = bytearray()
        for i, piece in enumerate(pieces):
            if piece.offset != offset + len(data) or (i == 0) != (piece.total > 0):
                raise AssertionError("piece %d: offset %d, total %d" % (i, piece.offset,
                                                                        piece.total))
            data += piece.data
        if offset == 0 and sha256(bytes(data)) != content:
            raise AssertionError("the content is not that of its name")
        return bytes(data)

    def push(self, update, offset=0, payload=None, timeout_s=WAIT_S):
        """Pushes from the offset on; the Receipt, or grpc.RpcError."""
        data = update.payload if payload is None else payload
        return self.push_method(pieces_of(update.id, data, offset), timeout=timeout_s)


def pieces_of(update_id, data, offset=0):
    """The pieces of a push: the first carries the id."""
    pb, first = wire(), True
    while first or offset < len(data):
        yield pb.Piece(id=update_id if first else b"", offset=offset,
                       data=data[offset:offset + CHUNK])
        offset, first = offset + CHUNK, False

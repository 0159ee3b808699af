# SPDX-License-Identifier: Apache-2.0
"""Who may talk to whom, and for how long: TLS versions, renewal, revocation."""
import os
import socket
import ssl
import unittest

from federation import Federation


def context(kind, folder, authority, versions):
    """A plain TLS end with that node's certificate."""
    made = ssl.SSLContext(kind)
    made.check_hostname = False
    made.load_verify_locations(os.path.join(authority, "ca.pem"))
    made.load_cert_chain(os.path.join(folder, "identity", "cert.pem"),
                         os.path.join(folder, "identity", "key.pem"))
    made.set_alpn_protocols(["h2"])
    made.minimum_version, made.maximum_version = versions
    return made


V12 = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2)
ANY = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)


class TestTlsVersion(unittest.TestCase):
    def test_a_hub_speaks_tls_1_3_and_refuses_1_2(self):
        with Federation() as f:
            top = f.top(console_listen="127.0.0.1:0", enroll_listen="127.0.0.1:0",
                        authority_dir=f.authority)
            ports = [top.port] + [int(top.wait_log(p).group(1)) for p in
                                  (r"enrollment on port (\d+)", r"console on port (\d+)")]
            for port in ports:
                end = context(ssl.PROTOCOL_TLS_CLIENT, f.operator, f.authority, ANY)
                with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
                    with end.wrap_socket(raw, server_hostname=top.name) as tls:
                        self.assertEqual(tls.version(), "TLSv1.3")
                mark = top.mark()
                end = context(ssl.PROTOCOL_TLS_CLIENT, f.operator, f.authority, V12)
                with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
                    with self.assertRaises((ssl.SSLError, ConnectionError)):
                        end.wrap_socket(raw, server_hostname=top.name)
                top.wait_log("does not speak TLS 1.3", mark)

    def test_a_node_does_not_call_a_parent_that_speaks_only_tls_1_2(self):
        with Federation() as f:
            parent = os.path.join(f.dir, "parent")
            f.enroll("parent", "top", parent)
            for versions, heard in ((V12, None), (ANY, "TLSv1.3")):
                with socket.create_server(("127.0.0.1", 0)) as listener:
                    listener.settimeout(30)
                    spoke = f.spoke("north-1", type("P", (), {
                        "port": listener.getsockname()[1], "name": "parent"}),
                        enroll=heard is None)
                    raw, _ = listener.accept()
                    end = context(ssl.PROTOCOL_TLS_SERVER, parent, f.authority, versions)
                    with raw:
                        if heard is None:
                            with self.assertRaises((ssl.SSLError, ConnectionError)):
                                end.wrap_socket(raw, server_side=True)
                        else:
                            with end.wrap_socket(raw, server_side=True) as tls:
                                self.assertEqual(tls.version(), heard)
                    spoke.kill()


if __name__ == "__main__":
    unittest.main()

"""A client of streams with TLS inside, on python-h2 and Python's ssl: tunclient.py PORT XTUN [OPTION…]

Asks the server at 127.0.0.1:PORT for one stream; XTUN is the destination, or - for none. Speaks TLS inside of it as the
client, sends `ping`, and prints a JSON object: `status` and `headers` of the answer, `peer` (the URI in the certificate
inside), `alpn`, `echo`, and `failure`.

Options: method=CONNECT|POST (POST); authority=NAME (tunnel.example.net); web=ROOTS (TLS, verified by these roots for the
authority); mesh=DIR (TLS with this credential; otherwise no TLS); token=FILE; tokens=FILE (the same field once more);
inner=DIR (the credential that is shown inside); alpn=NAME (offered inside); name=NAME (SNI inside); plain (no TLS inside).

turns: asks once for each line of the standard input, the file of a token or -, all on one connection, and prints NUMBER
STATUS for each. It takes no notice of GOAWAY, but that `goaway` is true in the object.
"""

import json
import socket
import ssl
import sys

import h2.config
import h2.connection
import h2.events

port, destination = int(sys.argv[1]), sys.argv[2]
options = dict(option.partition("=")[::2] for option in sys.argv[3:])
authority = options.get("authority", "tunnel.example.net")
result = {}


def credential(context, directory):
    context.load_cert_chain(f"{directory}/cert-chain.pem", f"{directory}/key.pem")
    context.load_verify_locations(f"{directory}/root-cert.pem")


class Refused(Exception):
    pass


def main():
    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if "web" in options or "mesh" in options:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.set_alpn_protocols(["h2"])
        if "web" in options:
            context.load_verify_locations(options["web"])
        else:
            context.check_hostname = False
            credential(context, options["mesh"])
        connection = context.wrap_socket(connection, server_hostname=authority.partition(":")[0])
    outer = h2.connection.H2Connection(h2.config.H2Configuration(
        client_side=True, header_encoding="utf-8", validate_outbound_headers=False))
    outer.initiate_connection()
    method = options.get("method", "POST")
    head = [(":method", method), (":authority", authority)]
    if method == "POST":
        head += [(":scheme", "https"), (":path", "/")]
    if destination != "-":
        head.append(("x-tun", destination))
    for name in ("token", "tokens"):
        if name in options:
            head.append(("authorization", "Bearer " + open(options[name]).read()))

    received = bytearray()
    unread = bytearray()
    state = {"ended": False}

    def unheard(data):
        """Without GOAWAY, and without the PING that asks whether it was read."""
        unread.extend(data)
        kept = bytearray()
        while len(unread) >= 9:
            end = 9 + int.from_bytes(unread[:3], "big")
            if len(unread) < end:
                break
            kind = unread[3]
            if kind == 7:
                result["goaway"] = True
            elif kind != 6 or "goaway" not in result:
                kept += unread[:end]
            del unread[:end]
        return bytes(kept)

    def turn():
        data = connection.recv(65536)
        if not data:
            raise Refused("the connection ended")
        for event in outer.receive_data(unheard(data) if "turns" in options else data):
            if isinstance(event, h2.events.ResponseReceived):
                result["status"] = int(dict(event.headers)[":status"])
                result["headers"] = dict(event.headers)
            elif isinstance(event, h2.events.DataReceived):
                received.extend(event.data)
                outer.acknowledge_received_data(event.flow_controlled_length, 1)
            elif isinstance(event, h2.events.StreamEnded):
                state["ended"] = True
            elif isinstance(event, h2.events.StreamReset):
                if "turns" in options and event.error_code == 0:
                    continue
                raise Refused(f"the stream was reset: {event.error_code}")
            elif isinstance(event, h2.events.ConnectionTerminated):
                raise Refused(f"GOAWAY {event.error_code}")
        connection.sendall(outer.data_to_send())

    if "turns" in options:
        for number, line in enumerate(sys.stdin, 1):
            name = line.strip()
            shown = [] if name == "-" else [("authorization", "Bearer " + open(name).read())]
            outer.send_headers(2 * number - 1, head + shown)
            connection.sendall(outer.data_to_send())
            result.pop("status", None)
            while "status" not in result:
                turn()
            print(number, result["status"], flush=True)
        return
    outer.send_headers(1, head)
    connection.sendall(outer.data_to_send())
    while "status" not in result:
        turn()
    if result["status"] != 200:
        return
    if "plain" in options:
        outer.send_data(1, b"GET / HTTP/1.1\r\n\r\n")
        connection.sendall(outer.data_to_send())
        while not state["ended"]:
            turn()
        result["echo"] = received.decode("latin1")
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    credential(context, options["inner"])
    if "alpn" in options:
        context.set_alpn_protocols([options["alpn"]])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    inner = context.wrap_bio(incoming, outgoing, server_hostname=options.get("name"))

    def drive(step):
        while True:
            try:
                value = step()
                waits = False
            except ssl.SSLWantReadError:
                waits = True
            data = outgoing.read()
            if data:
                outer.send_data(1, data)
                connection.sendall(outer.data_to_send())
            if not waits:
                return value
            while not received:
                if state["ended"]:
                    raise Refused("the stream ended")
                turn()
            incoming.write(bytes(received))
            received.clear()

    drive(inner.do_handshake)
    result["peer"] = [value for kind, value in inner.getpeercert()["subjectAltName"] if kind == "URI"]
    result["alpn"] = inner.selected_alpn_protocol()
    drive(lambda: inner.write(b"ping"))
    result["echo"] = drive(lambda: inner.read(100)).decode()


try:
    main()
except (Refused, OSError, ssl.SSLError) as failure:
    result["failure"] = str(failure)
print(json.dumps(result), flush=True)

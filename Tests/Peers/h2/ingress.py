"""A client of HTTP/2 that writes its own frames, for a gateway at PORT; what it gets is printed.

    ingress.py PORT malformed      requests that are no requests; each line: NAME, and STATUS, RST_STREAM(CODE), GOAWAY(CODE) or "closed"
    ingress.py PORT flood NAME     a flood; then how the connection ended
    ingress.py PORT slow           a head that does not end, on a connection without anything else; then how it ended
    ingress.py PORT reset          the head of a request with content to /body, and its reset; and then a request that is answered
    ingress.py PORT drain          a request to /events, "open" when its answer begins, and each frame that matters after that
    ingress.py PORT window BYTES   /big, of which BYTES are taken; "held" when no more come, and then the rest; the size of all
"""
import select
import socket
import struct
import sys

import hpack

DATA, HEADERS, RST, SETTINGS, PING, GOAWAY, WINDOW, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
ENDS, WHOLE = 1, 4
GET = [(":method", "GET"), (":scheme", "http"), (":authority", "a.example.org")]
POST = [(":method", "POST")] + GET[1:]


def frame(kind, stream, flags, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def literal(name, value):
    name, value = (x if isinstance(x, bytes) else x.encode() for x in (name, value))
    encoded = b"\x00"
    for text in (name, value):
        if len(text) < 127:
            encoded += bytes([len(text)]) + text
        else:
            rest, more = len(text) - 127, b"\x7f"
            while rest >= 128:
                more += bytes([rest % 128 | 128])
                rest //= 128
            encoded += more + bytes([rest]) + text
    return encoded


def block(fields):
    return b"".join(literal(name, value) for name, value in fields)


class Client:
    def __init__(self, port, settings=b""):
        self.socket = socket.create_connection(("127.0.0.1", port), 60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.decoder = hpack.Decoder()
        self.decoder.max_allowed_table_size = 65536
        self.input = b""
        self.next = 1
        self.settings = []
        self.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, settings))

    def send(self, data):
        try:
            self.socket.sendall(data)
        except OSError:
            pass

    def head(self, fields, ends=True, stream=None):
        if stream is None:
            stream, self.next = self.next, self.next + 2
        self.send(frame(HEADERS, stream, WHOLE | (ENDS if ends else 0), block(fields)))
        return stream

    def read(self):
        """The next frame, or None at the end of the connection."""
        while True:
            if len(self.input) >= 9:
                length = int.from_bytes(self.input[:3], "big")
                if len(self.input) >= 9 + length:
                    kind, flags = self.input[3:5]
                    stream = int.from_bytes(self.input[5:9], "big") & 0x7FFFFFFF
                    payload, self.input = self.input[9 : 9 + length], self.input[9 + length :]
                    return kind, flags, stream, payload
            try:
                data = self.socket.recv(65536)
            except OSError:
                return None
            if not data:
                return None
            self.input += data

    def events(self):
        """What matters of the frames: (what, stream, value)."""
        while True:
            got = self.read()
            if got is None:
                yield "closed", 0, None
                return
            kind, flags, stream, payload = got
            if kind == HEADERS:
                yield "head", stream, dict(self.decoder.decode(payload))
            elif kind == DATA:
                yield "data", stream, payload
            elif kind == RST:
                yield "reset", stream, int.from_bytes(payload, "big")
            elif kind == GOAWAY:
                yield "goaway", int.from_bytes(payload[:4], "big"), int.from_bytes(payload[4:8], "big")
            elif kind == SETTINGS and not flags & 1:
                for index in range(0, len(payload), 6):
                    self.settings.append(struct.unpack(">HI", payload[index : index + 6]))
                self.send(frame(SETTINGS, 0, 1))
            elif kind == PING and not flags & 1:
                self.send(frame(PING, 0, 1, payload))
            if kind in (HEADERS, DATA) and flags & ENDS:
                yield "end", stream, None

    def outcome(self, wanted):
        """What becomes of a stream, in a word."""
        for what, stream, value in self.events():
            if what == "closed":
                return "closed"
            if what == "goaway" and value:
                return f"GOAWAY({value})"
            if stream != wanted:
                continue
            if what == "head":
                return value[":status"]
            if what == "reset":
                return f"RST_STREAM({value})"


def malformed(port):
    path = [(":path", "/head")]
    length = [("content-length", "5")]
    cases = {
        "no path": GET,
        "an empty path": GET + [(":path", "")],
        "a path that is a URL": GET + [(":path", "http://b.example.org/")],
        "a path without a slash": GET + [(":path", "head")],
        "a path with a space": GET + [(":path", "/a b")],
        "a path with a line": GET + [(":path", "/ HTTP/1.1\r\nx: y")],
        "a path that climbs": GET + [(":path", "/a/../b")],
        "no method": GET[1:] + path,
        "a method with a line": [(":method", "GET / HTTP/1.1\r\n\r\nGET")] + GET[1:] + path,
        "a method with a space": [(":method", "GET /x")] + GET[1:] + path,
        "two methods": GET + path + [(":method", "GET")],
        "two paths": GET + path + path,
        "no scheme": GET[:1] + GET[2:] + path,
        "another scheme": [GET[0], (":scheme", "ftp"), GET[2]] + path,
        "no host": GET[:2] + path,
        "a host with a path": GET[:2] + [(":authority", "a.example.org/x")] + path,
        "a host with a user": GET[:2] + [(":authority", "u@a.example.org")] + path,
        "two hosts": GET + path + [("host", "b.example.org")],
        "two host fields": GET[:2] + path + [("host", "a.example.org"), ("host", "a.example.org")],
        "a pseudo-header field that is none": GET + path + [(":x", "1")],
        "a pseudo-header field of a response": GET + path + [(":status", "200")],
        "a pseudo-header field behind others": GET + [("x", "1")] + path,
        "capital letters": GET + path + [("X-Large", "1")],
        "an empty name": GET + path + [("", "1")],
        "a name with a space": GET + path + [("a b", "1")],
        "a name with a colon": GET + path + [("a:b", "1")],
        "a value with a line": GET + path + [("x", "1\r\nhost: evil")],
        "a value with LF": GET + path + [("x", "1\nhost: evil")],
        "a value with NUL": GET + path + [("x", "1\0")],
        "a value that begins with a space": GET + path + [("x", " 1")],
        "connection": GET + path + [("connection", "close")],
        "keep-alive": GET + path + [("keep-alive", "1")],
        "proxy-connection": GET + path + [("proxy-connection", "close")],
        "upgrade": GET + path + [("upgrade", "h2c")],
        "transfer-encoding": POST + path + [("transfer-encoding", "chunked")],
        "te": GET + path + [("te", "gzip")],
        "two lengths": POST + path + length + length,
        "a length that is none": POST + path + [("content-length", "+5")],
        "a length with a list": POST + path + [("content-length", "5, 5")],
        "less content than it says": POST + path + length,
        "TRACE": [(":method", "TRACE")] + GET[1:] + path,
        "CONNECT": [(":method", "CONNECT"), (":authority", "a.example.org:80")],
        "extended CONNECT": [(":method", "CONNECT"), (":protocol", "websocket")] + GET[1:] + path,
        "too many fields": GET + path + [(f"x-{number}", "1") for number in range(200)],
        "too large a field": GET + path + [("x", "1" * 15000)] * 3,
        "a circle": GET + path + [("via", "1.1 x")] * 10,
    }
    client = Client(port)
    for name, fields in cases.items():
        print(f"{name}: {client.outcome(client.head(fields))}", flush=True)
    # In a block of several frames; with content that does not fit; with trailers that are none.
    stream = client.head(POST + path + length, ends=False)
    client.send(frame(DATA, stream, ENDS, b"much more than five"))
    print(f"more content than it says: {client.outcome(stream)}")
    stream = client.head(POST + [(":path", "/body")], ends=False)
    client.send(frame(DATA, stream, 0, b"x") + frame(HEADERS, stream, WHOLE | ENDS, block([(":path", "/y")])))
    print(f"pseudo-header fields in trailers: {client.outcome(stream)}")
    stream = client.head(POST + [(":path", "/body")], ends=False)
    client.send(frame(DATA, stream, 0, b"x") + frame(HEADERS, stream, WHOLE | ENDS, block([("x", "1\r\ny: z")])))
    print(f"trailers with a line: {client.outcome(stream)}")
    # The connection has suffered nothing.
    print(f"and a request: {client.outcome(client.head(GET + path))}")
    for name, data in {
        "a stream of the server's": frame(HEADERS, 2, WHOLE | ENDS, block(GET + path)),
        "a stream that goes back": frame(HEADERS, 5, 5, block(GET + path)) + frame(HEADERS, 3, 5, block(GET + path)),
        "content without a request": frame(DATA, 1, 0, b"x"),
        "a block that is cut": frame(HEADERS, 1, ENDS, block(GET)) + frame(PING, 0, 0, bytes(8)),
        "a block that is no HPACK": frame(HEADERS, 1, 5, b"\xff" * 20),
        "a frame that is too large": b"\x7f\xff\xff\x00\x00\x00\x00\x00\x01",
        "a window that overflows": frame(WINDOW, 0, 0, struct.pack(">I", 0x7FFFFFFF)) * 2,
        "another protocol": b"GET / HTTP/1.1\r\nHost: a.example.org\r\n\r\n",
    }.items():
        client = Client(port)
        client.send(data)
        # HTTP/2 may also be content with refusing the one stream.
        for what, _, value in client.events():
            if what == "goaway" and value or what == "closed":
                print(f"{name}: " + (f"GOAWAY({value})" if what == "goaway" else what), flush=True)
                break


def flood(port, name):
    client = Client(port)
    request = block(GET + [(":path", "/silent")])
    pieces = {
        "reset": lambda n: frame(HEADERS, n, 5, request) + frame(RST, n, 0, struct.pack(">I", 8)),
        "ping": lambda n: frame(PING, 0, 0, bytes(8)),
        "settings": lambda n: frame(SETTINGS, 0, 0, struct.pack(">HI", 3, 100)),
        "empty": lambda n: (frame(HEADERS, 1, 4, block(POST + [(":path", "/body")])) if n == 1 else b"") + frame(DATA, 1, 0),
        "window": lambda n: frame(WINDOW, 0, 0, struct.pack(">I", 1)),
        "continuation": lambda n: (frame(HEADERS, 1, 0, request) if n == 1 else b"") + frame(CONTINUATION, 1, 0, literal("x", "y")),
        "malformed": lambda n: frame(HEADERS, n, 5, block(GET)),
        # Each of these few bytes stands for 4,000: the table's last entry, again and again.
        "bomb": lambda n: frame(HEADERS, n, 5, request + (b"\x40" + literal("x", "z" * 3900)[1:] if n == 1 else b"") + b"\xbe" * 12000),
        "priority": lambda n: frame(2, n, 0, struct.pack(">IB", 0, 1)),
    }[name]
    client.socket.settimeout(30)
    for index in range(5000):
        client.send(pieces(2 * index + 1))
        if select.select([client.socket], [], [], 0)[0]:
            try:
                data = client.socket.recv(1 << 20)
            except OSError:
                break
            if not data:
                break
            client.input += data
    # Most of what came back is of no interest; what its end is, is.
    client.send(frame(HEADERS, 20001, 5, block(GET + [(":path", "/head")])))
    last = "closed"
    for what, stream, value in client.events():
        if what == "goaway":
            last = f"GOAWAY({value})"
        if what == "head" and stream == 20001:
            last = value[":status"]
            break
    print(last)


def slow(port):
    client = Client(port)
    client.send(frame(HEADERS, 1, 0, block(GET)))
    print([what for what, _, _ in client.events()][-1])


def reset(port):
    client = Client(port)
    stream = client.head(POST + [(":path", "/body")], ends=False)
    client.send(frame(DATA, stream, 0, b"x") + frame(RST, stream, 0, struct.pack(">I", 8)))
    print(client.outcome(client.head(GET + [(":path", "/head")])))


def drain(port):
    client = Client(port)
    stream = client.head(GET + [(":path", "/events")])
    for what, number, value in client.events():
        if what == "head":
            print("open" if number == stream else value[":status"], flush=True)
        elif what == "data":
            print(value.decode().strip(), flush=True)
        elif what == "goaway":
            # After the first word a request may still be on its way, and is answered.
            print(f"goaway {number} {value}", flush=True)
            if number == 0x7FFFFFFF:
                client.head(GET + [(":path", "/")])
        elif what == "reset":
            print(f"reset {value}", flush=True)
        elif what == "closed":
            print("closed", flush=True)


def window(port, room):
    # INITIAL_WINDOW_SIZE: the client takes so much and no more until it says so.
    client = Client(port, struct.pack(">HI", 4, room))
    client.send(frame(WINDOW, 0, 0, struct.pack(">I", 1 << 24)))
    stream = client.head(GET + [(":path", "/big")])
    total = 0
    for what, number, value in client.events():
        if what == "data":
            total += len(value)
            if total == room:
                # Nothing comes until there is room again, but an answer to this.
                print("held", flush=True)
                client.send(frame(WINDOW, stream, 0, struct.pack(">I", 1 << 24)))
        elif what in ("end", "closed", "reset"):
            print(what, total)
            return


port, what = int(sys.argv[1]), sys.argv[2]
if what == "flood":
    flood(port, sys.argv[3])
elif what == "window":
    window(port, int(sys.argv[3]))
else:
    {"malformed": malformed, "slow": slow, "reset": reset, "drain": drain}[what](port)

"""An HTTP/2 peer that keeps no rule: it sends the frames it is told to and prints what comes back.

    hostile.py server [NAME=VALUE…]          listens on 127.0.0.1, prints {"event": "listening", "port": N}
    hostile.py client PORT [NAME=VALUE…]     connects to 127.0.0.1:PORT

NAME=VALUE are settings by number, for the first SETTINGS frame. SETTINGS are acknowledged and PINGs not answered; there is no
state machine and no window. Commands, one a line:

    flood COUNT FRAME…        the frames, COUNT times. A FRAME is TYPE:STREAM:FLAGS:HEX; STREAM may be N+, which is N, N+2, N+4…
                              HEX may be HEX*N, which is HEX repeated N times, and several of them with commas between
    request STREAM AUTHORITY  HEADERS with :method CONNECT
    answer STREAM             HEADERS with :status 200
    fill STREAM COUNT         DATA frames of 16 KiB, whatever the window
    pause / resume            stops and goes on reading
    half / abort              shutdown(SHUT_WR) / TCP RST
"""
import json
import select
import socket
import struct
import sys

import hpack


def report(event, **values):
    print(json.dumps({"event": event, **values}, sort_keys=True), flush=True)


def frame(kind, stream, flags, payload):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def literal(index, value):
    """A header field without indexing, its name from the static table."""
    value = value.encode()
    assert len(value) < 127
    return bytes([index, len(value)]) + value


def unpack(text):
    pieces = [piece.partition("*") for piece in text.split(",")]
    return b"".join(bytes.fromhex(piece) * int(times or 1) for piece, _, times in pieces)


class Hostile:
    def __init__(self, role, arguments):
        settings = [word.split("=") for word in arguments if "=" in word]
        if role == "server":
            listener = socket.create_server(("127.0.0.1", 0))
            report("listening", port=listener.getsockname()[1])
            self.socket, _ = listener.accept()
            listener.close()
        else:
            self.socket = socket.create_connection(("127.0.0.1", int(arguments[0])))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.output = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" if role == "client" else b""
        self.output += frame(4, 0, 0, b"".join(struct.pack(">HI", int(n), int(v)) for n, v in settings))
        self.input = b""
        self.preface = 24 if role == "server" else 0
        self.is_reading = True
        self.reported = {}
        self.decoder = hpack.Decoder()
        self.waiting = []

    def command(self, line):
        verb, *words = line.split(" ")
        if verb == "flood":
            frames = [word.split(":") for word in words[1:]]
            payloads = [unpack(word[3]) for word in frames]
            pieces = []
            for index in range(int(words[0])):
                for (kind, stream, flags, _), payload in zip(frames, payloads):
                    number = int(stream.rstrip("+")) + (2 * index if stream.endswith("+") else 0)
                    pieces.append(frame(int(kind), number, int(flags), payload))
            self.output += b"".join(pieces)
        elif verb == "request":
            self.output += frame(1, int(words[0]), 4, literal(2, "CONNECT") + literal(1, words[1]))
        elif verb == "answer":
            self.output += frame(1, int(words[0]), 4, b"\x88")
        elif verb == "fill":
            left = int(words[1])
            while left > 0:
                self.output += frame(0, int(words[0]), 0, bytes(min(left, 16384)))
                left -= min(left, 16384)
        elif verb == "pause":
            self.is_reading = False
        elif verb == "resume":
            self.is_reading = True
        elif verb == "half":
            self.socket.shutdown(socket.SHUT_WR)
        elif verb == "abort":
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.socket.close()
            sys.exit(0)
        else:
            raise SystemExit(f"unknown command {verb}")
        self.waiting.append(line)

    def received(self, data):
        self.input += data
        if self.preface:
            if len(self.input) < self.preface:
                return
            self.input, self.preface = self.input[self.preface:], 0
        while len(self.input) >= 9:
            length = int.from_bytes(self.input[:3], "big")
            if len(self.input) < 9 + length:
                return
            kind, flags = self.input[3], self.input[4]
            stream = int.from_bytes(self.input[5:9], "big") & 0x7FFFFFFF
            payload, self.input = self.input[9:9 + length], self.input[9 + length:]
            name = {0: "data", 1: "headers", 3: "reset", 7: "goaway"}.get(kind)
            if kind == 4 and not flags & 1:
                self.output += frame(4, 0, 1, b"")
            # Our peer's header blocks always fit one frame.
            if name is None or self.reported.get(name, 0) >= 300:
                continue
            self.reported[name] = self.reported.get(name, 0) + 1
            values = {"stream_id": stream, "end": bool(flags & 1)}
            if kind == 0:
                values["length"] = length
            if kind == 1:
                values["status"] = int(dict(self.decoder.decode(payload)).get(":status", 0))
            if kind == 3:
                values["error_code"] = int.from_bytes(payload[:4], "big")
            if kind == 7:
                values["error_code"] = int.from_bytes(payload[4:8], "big")
            report(name, **values)

    def run(self):
        commands = b""
        while True:
            readers = [sys.stdin.buffer.raw] + ([self.socket] if self.is_reading else [])
            ready, writable, _ = select.select(readers, [self.socket] if self.output else [], [])
            try:
                if writable:
                    self.output = self.output[self.socket.send(self.output[:1 << 20]):]
                if not self.output:
                    for line in self.waiting:
                        report("done", command=line)
                    self.waiting = []
                if self.socket in ready:
                    data = self.socket.recv(1 << 20)
                    if not data:
                        report("closed")
                        return
                    self.received(data)
            except (ConnectionError, OSError):
                # What was said before the reset may still be there to read.
                self.drain()
                report("aborted")
                return
            if sys.stdin.buffer.raw in ready:
                chunk = sys.stdin.buffer.raw.read(65536)
                if not chunk:
                    return
                commands += chunk
                *lines, commands = commands.split(b"\n")
                for line in lines:
                    self.command(line.decode())

    def drain(self):
        try:
            while data := self.socket.recv(1 << 20):
                self.received(data)
        except OSError:
            pass


Hostile(sys.argv[1], sys.argv[2:]).run()

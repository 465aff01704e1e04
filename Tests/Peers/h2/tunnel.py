"""A proxy of the web that is not trusted: ends TLS and HTTP/2, passes streams on, records them, and may be hostile.

Usage: tunnel.py CREDENTIAL UPSTREAM [OPTION…]

CREDENTIAL is a directory with cert-chain.pem and key.pem; UPSTREAM the port on 127.0.0.1 that takes HTTP/2 without TLS.
Prints its port, then a JSON object for each request (its head), for each stream that is over (`count` of bytes passed on,
`marked`: whether any of them held the text of `mark=`), and for whatever it did that is hostile.

Options: mark=TEXT; token=FILE (anything but the token in FILE, read for each request, is answered 401); status=N (for each request); plain
(200, and text instead of what is asked for); cut=N (resets a stream after N bytes from upstream); end=N (ends it there);
swap=HOST:PORT (another x-tun); flip (changes one bit of what the client sends, after its handshake); replay (sends what the
first client has sent once more, on a stream of its own); port=N; http1 (ALPN has http/1.1 only); silent (no ALPN).
"""

import asyncio
import json
import os
import ssl
import sys

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings

credential, upstream = sys.argv[1], int(sys.argv[2])
options = dict(option.partition("=")[::2] for option in sys.argv[3:])
mark = options.get("mark", "").encode()
WINDOW = 1 << 20


def tell(**facts):
    print(json.dumps(facts), flush=True)


class Side:
    """A connection of HTTP/2: bytes go out as far as windows are open, and wait otherwise."""

    def __init__(self, reader, writer, is_client):
        self.reader, self.writer = reader, writer
        config = h2.config.H2Configuration(
            client_side=is_client, header_encoding="utf-8", validate_inbound_headers=False,
            validate_outbound_headers=False, normalize_outbound_headers=False)
        self.connection = h2.connection.H2Connection(config)
        self.connection.local_settings = h2.settings.Settings(
            client=is_client, initial_values={h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: WINDOW})
        self.connection.initiate_connection()
        self.connection.increment_flow_control_window(8 * WINDOW)
        self.waiting = {}
        self.handlers = {}
        self.flush()

    def flush(self):
        data = self.connection.data_to_send()
        if data:
            self.writer.write(data)

    def send(self, stream, data=b"", end=False):
        queue = self.waiting.setdefault(stream, [bytearray(), False])
        queue[0] += data
        queue[1] = queue[1] or end
        self.pump(stream)

    def pump(self, stream):
        queue = self.waiting.get(stream)
        if queue is None:
            return
        try:
            while queue[0]:
                room = min(self.connection.local_flow_control_window(stream), self.connection.max_outbound_frame_size)
                if room <= 0:
                    return
                self.connection.send_data(stream, bytes(queue[0][:room]))
                del queue[0][:room]
            if queue[1]:
                self.connection.end_stream(stream)
                del self.waiting[stream]
        except h2.exceptions.ProtocolError:
            self.waiting.pop(stream, None)
        finally:
            self.flush()

    def reset(self, stream, code=h2.errors.ErrorCodes.CONNECT_ERROR):
        self.waiting.pop(stream, None)
        try:
            self.connection.reset_stream(stream, code)
        except h2.exceptions.ProtocolError:
            pass
        self.flush()

    async def run(self, begin):
        """Calls `begin` for a request, and what it has put into `handlers` for all else of a stream."""
        try:
            while data := await self.reader.read(1 << 16):
                for event in self.connection.receive_data(data):
                    stream = getattr(event, "stream_id", None)
                    if isinstance(event, h2.events.RequestReceived):
                        begin(stream, event.headers)
                    elif isinstance(event, (h2.events.WindowUpdated, h2.events.RemoteSettingsChanged)):
                        for waiting in [stream] if stream else list(self.waiting):
                            self.pump(waiting)
                    elif isinstance(event, h2.events.DataReceived):
                        self.connection.acknowledge_received_data(event.flow_controlled_length, stream)
                        self.handlers.get(stream, lambda _: None)(event)
                    elif stream:
                        self.handlers.get(stream, lambda _: None)(event)
                self.flush()
                await self.writer.drain()
        except (OSError, ssl.SSLError):
            pass
        finally:
            for handler in list(self.handlers.values()):
                handler(None)
            self.writer.close()


class Tunnel:
    def __init__(self, client, stream, head, replayed=None):
        self.client, self.stream, self.head = client, stream, head
        self.server = None
        self.early = []
        self.count, self.marked, self.back, self.sent = 0, False, 0, bytearray()
        self.tail = {True: b"", False: b""}
        self.is_over = False
        self.replayed = replayed
        if client:
            client.handlers[stream] = self.from_client
        asyncio.get_running_loop().create_task(self.open())

    async def open(self):
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", upstream)
        except OSError:
            return self.answer(502)
        self.server = Side(reader, writer, True)
        fields = [(name, value) for name, value in self.head if name not in ("host", "connection")]
        self.server.connection.send_headers(1, fields)
        self.server.handlers[1] = self.from_server
        for event in self.early:
            self.from_client(event)
        if self.replayed:
            self.server.send(1, self.replayed)
        self.server.flush()
        await self.server.run(lambda *_: None)

    def answer(self, status, *fields, end=True):
        self.client.connection.send_headers(self.stream, [(":status", str(status)), *fields], end_stream=end)
        self.client.flush()

    def look(self, data, is_up):
        self.count += len(data)
        text = self.tail[is_up] + data
        self.marked = self.marked or bool(mark) and mark in text
        self.tail[is_up] = text[-len(mark):] if mark else b""

    def from_client(self, event):
        if not self.server:
            return self.early.append(event)
        if event is None or isinstance(event, h2.events.StreamReset):
            self.server.reset(1)
            self.server.writer.close()
            return self.over()
        if isinstance(event, h2.events.DataReceived):
            data = event.data
            if "flip" in options and len(self.sent) > 4000:
                data = bytes([data[0]]) + data[1:-1] + bytes([data[-1] ^ 1])
            self.sent += data
            self.look(data, True)
            self.server.send(1, data)
        elif isinstance(event, h2.events.StreamEnded):
            self.server.send(1, end=True)

    def from_server(self, event):
        if self.replayed:
            if isinstance(event, h2.events.DataReceived):
                self.back += len(event.data)
            if event is None or isinstance(event, (h2.events.StreamReset, h2.events.StreamEnded)):
                tell(replayed=len(self.replayed), back=self.back)
                self.replayed = None
            return
        if event is None or isinstance(event, h2.events.StreamReset):
            self.client.reset(self.stream)
            return self.over()
        if isinstance(event, h2.events.ResponseReceived):
            self.client.connection.send_headers(self.stream, [field for field in event.headers])
            self.client.flush()
        elif isinstance(event, h2.events.DataReceived):
            self.look(event.data, False)
            self.back += len(event.data)
            self.client.send(self.stream, event.data)
            if "cut" in options and self.back >= int(options["cut"]):
                self.client.reset(self.stream)
                self.over()
            if "end" in options and self.back >= int(options["end"]):
                self.client.send(self.stream, end=True)
                self.over()
        elif isinstance(event, h2.events.StreamEnded):
            self.client.send(self.stream, end=True)
            self.over()

    def over(self):
        if self.is_over:
            return
        self.is_over = True
        tell(over=dict(self.head).get("x-tun"), count=self.count, marked=self.marked)
        if "replay" in options:
            del options["replay"]
            Tunnel(None, None, self.head, bytes(self.sent))


def begin(client):
    def handle(stream, head):
        tell(request=dict(head))
        fields = dict(head)
        tunnel = lambda head: Tunnel(client, stream, head)
        respond = lambda status, *more: (
            client.connection.send_headers(stream, [(":status", str(status)), *more], end_stream=True), client.flush())
        if "token" in options and fields.get("authorization") != "Bearer " + open(options["token"]).read().strip():
            return respond(401, ("www-authenticate", "Bearer"))
        if "status" in options:
            return respond(options["status"])
        if "plain" in options:
            client.connection.send_headers(stream, [(":status", "200")])
            return client.send(stream, b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")
        if "swap" in options:
            head = [(name, options["swap"] if name == "x-tun" else value) for name, value in head]
        tunnel(head)
    return handle


async def serve(reader, writer):
    side = Side(reader, writer, False)
    await side.run(begin(side))


async def main():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(os.path.join(credential, "cert-chain.pem"), os.path.join(credential, "key.pem"))
    if "silent" not in options:
        context.set_alpn_protocols(["http/1.1"] if "http1" in options else ["h2"])
    server = await asyncio.start_server(serve, "127.0.0.1", int(options.get("port", 0)), ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())

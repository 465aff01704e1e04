"""An emulation of Istio's ztunnel on python-h2: what it shows on the wire, as far as its source tells. It is not ztunnel.

    peer.py client PORT CREDENTIAL        peer.py server CREDENTIAL [--ping SECONDS]

What is ztunnel's: TLS 1.3 with ALPN h2 and no SNI; SETTINGS, windows and DATA frames up to 1 MiB; a client certificate whose only
SPIFFE ID is of the server's trust domain; an :authority whose address is that of the connection, else 400; 401 when policy
says no; 503 without a backend; baggage, forwarded and traceparent on each request and baggage on each 200; no byte before the 200;
a backend's reset swallowed, so that it looks like an end; RST_STREAM(NO_ERROR or CANCEL) taken for an end; PING each 10 s with
a timeout of 20 s; GOAWAY(2^31-1) and PING, then GOAWAY(last stream).

Commands and events: Tests/Peers/README.md. Beyond them: "settings" with what the other side has announced, "frames" with the
largest DATA frame of each direction, "ping" for each answer to one.
"""
import asyncio
import hashlib
import json
import re
import ssl
import struct
import sys

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import hyperframe.frame
from cryptography import x509

SETTINGS = {
    "client": {
        h2.settings.SettingCodes.ENABLE_PUSH: 0,
        h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 4194304,
        h2.settings.SettingCodes.MAX_FRAME_SIZE: 1048576,
        h2.settings.SettingCodes.MAX_HEADER_LIST_SIZE: 16384,
    },
    "server": {
        h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: 200,
        h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 4194304,
        h2.settings.SettingCodes.MAX_FRAME_SIZE: 1048576,
        h2.settings.SettingCodes.MAX_HEADER_LIST_SIZE: 65536,
    },
}
CONNECTION_WINDOW = 16777216
LARGEST_FRAME = 1048576
PING_INTERVAL, PING_TIMEOUT = 10.0, 20.0
IDENTITY = re.compile(r"spiffe://([^/]+)/ns/([^/]+)/sa/([^/]+)$")
BAGGAGE = "k8s.cluster.name=lab,k8s.namespace.name=prod,k8s.deployment.name=peer,service.name=peer,service.version=v1"
# What a client sends: 1,000,003 bytes, again and again.
BLOCK = hashlib.shake_256(b"interop").digest(1000003)


def report(event, **values):
    print(json.dumps({"event": event, **values}, sort_keys=True), flush=True)


class Tally:
    def __init__(self):
        self.count, self.hash = 0, hashlib.sha256()

    def add(self, data):
        self.count += len(data)
        self.hash.update(data)

    @property
    def result(self):
        return {"count": self.count, "sha256": self.hash.hexdigest()}


class Reset(Exception):
    def __init__(self, code):
        self.code = code


class Tunnel:
    """One stream: what has arrived waits in a queue, at most a window of it."""

    END = object()

    def __init__(self, side, number):
        self.side, self.number = side, number
        self.arrived = asyncio.Queue()
        self.response = asyncio.get_running_loop().create_future()
        self.reset_code = None
        self.received_end = self.sent_end = False

    async def read(self):
        """The next bytes, b"" for the end; raises Reset."""
        item, credit = await self.arrived.get()
        if credit:
            try:
                self.side.connection.acknowledge_received_data(credit, self.number)
                await self.side.flush()
            except (h2.exceptions.ProtocolError, OSError):
                pass  # The stream is gone, or the connection.
        if item is Tunnel.END:
            return b""
        if isinstance(item, Reset):
            # h2's rule in ztunnel: these two are an end.
            if item.code in (h2.errors.ErrorCodes.NO_ERROR, h2.errors.ErrorCodes.CANCEL):
                return b""
            raise item
        return item

    async def write(self, data):
        connection = self.side.connection
        while data:
            self.check()
            room = min(connection.local_flow_control_window(self.number), connection.max_outbound_frame_size, LARGEST_FRAME)
            if room <= 0:
                await self.side.wait_for_credit()
                continue
            piece, data = data[:room], data[room:]
            self.side.largest_sent = max(self.side.largest_sent, len(piece))
            connection.send_data(self.number, piece)
            await self.side.flush()

    def check(self):
        if self.reset_code is not None:
            raise Reset(self.reset_code)
        if self.side.is_closed:
            raise Reset(h2.errors.ErrorCodes.CANCEL)

    async def end(self):
        self.check()
        if not self.sent_end:
            self.sent_end = True
            self.side.connection.end_stream(self.number)
            await self.side.flush()

    async def reset(self, code):
        if self.reset_code is None and not (self.sent_end and self.received_end):
            self.reset_code = code
            self.side.connection.reset_stream(self.number, h2.errors.ErrorCodes(code))
            await self.side.flush()


class Side:
    """One connection."""

    def __init__(self, role, reader, writer, ping_interval):
        self.role, self.reader, self.writer = role, reader, writer
        self.ping_interval = ping_interval
        self.connection = h2.connection.H2Connection(
            h2.config.H2Configuration(
                client_side=role == "client",
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self.connection.local_settings = h2.settings.Settings(client=role == "client", initial_values=SETTINGS[role])
        self.connection.max_inbound_frame_size = LARGEST_FRAME
        # python-h2 takes GOAWAY for the end of everything; a draining connection goes on.
        self.connection._frame_dispatch_table[hyperframe.frame.GoAwayFrame] = self.received_goaway
        self.tunnels = {}
        self.credit = asyncio.Event()
        self.is_closed = self.is_draining = self.said_goodbye = False
        self.largest_sent = self.largest_received = 0
        self.pongs = 0
        self.peer = identity(writer.get_extra_info("ssl_object"))

    def received_goaway(self, frame):
        report("goaway", code=frame.error_code, last=frame.last_stream_id)
        return [], []

    async def flush(self):
        data = self.connection.data_to_send()
        if data:
            self.writer.write(data)
        await self.writer.drain()

    async def wait_for_credit(self):
        self.credit.clear()
        await self.credit.wait()

    def frame(self, kind, payload):
        """A frame past the state machine, behind what that has to send."""
        header = struct.pack(">I", len(payload))[1:] + bytes([kind, 0]) + bytes(4)
        self.writer.write(self.connection.data_to_send() + header + payload)

    async def run(self):
        self.connection.initiate_connection()
        self.connection.increment_flow_control_window(CONNECTION_WINDOW - 65535)
        await self.flush()
        pinging = asyncio.create_task(self.keep_alive())
        try:
            while data := await self.reader.read(1 << 18):
                for event in self.connection.receive_data(data):
                    self.handle(event)
                await self.flush()
                self.credit.set()
                if self.is_draining and not self.connection.open_inbound_streams:
                    break
        except (OSError, h2.exceptions.ProtocolError) as error:
            report("broken", reason=repr(error))
        pinging.cancel()
        self.is_closed = True
        self.credit.set()
        for tunnel in self.tunnels.values():
            tunnel.arrived.put_nowait((Reset(h2.errors.ErrorCodes.INTERNAL_ERROR), 0))
            if not tunnel.response.done():
                tunnel.response.set_result(None)
        report("frames", sent=self.largest_sent, received=self.largest_received)
        report("closed")
        self.writer.close()

    async def keep_alive(self):
        while True:
            await asyncio.sleep(self.ping_interval)
            before = self.pongs
            self.connection.ping(b"ztunnel!")
            await self.flush()
            for _ in range(100):
                await asyncio.sleep(PING_TIMEOUT / 1000)
                if self.pongs > before:
                    break
            else:
                await asyncio.sleep(PING_TIMEOUT * 0.9)
            if self.pongs == before:
                report("silent")
                self.writer.transport.abort()
                return

    def handle(self, event):
        if isinstance(event, h2.events.RemoteSettingsChanged):
            report("settings", settings={str(int(k)): v.new_value for k, v in event.changed_settings.items()})
        elif isinstance(event, h2.events.PingAckReceived):
            self.pongs += 1
            report("ping")
            if self.is_draining and not self.said_goodbye:
                self.said_goodbye = True
                last = max([number for number in self.tunnels if number % 2], default=0)
                self.frame(7, struct.pack(">II", last, 0))
        elif isinstance(event, h2.events.RequestReceived):
            tunnel = self.tunnels[event.stream_id] = Tunnel(self, event.stream_id)
            headers = {text(name): text(value) for name, value in event.headers}
            tunnel.task = asyncio.create_task(serve(tunnel, headers))
        elif isinstance(event, h2.events.StreamEnded):
            tunnel = self.tunnels[event.stream_id]
            tunnel.received_end = True
            tunnel.arrived.put_nowait((Tunnel.END, 0))
        elif isinstance(event, h2.events.ResponseReceived):
            tunnel = self.tunnels[event.stream_id]
            tunnel.response.set_result({text(name): text(value) for name, value in event.headers})
        elif isinstance(event, h2.events.DataReceived):
            self.largest_received = max(self.largest_received, len(event.data))
            self.tunnels[event.stream_id].arrived.put_nowait((event.data, event.flow_controlled_length))
        elif isinstance(event, h2.events.StreamReset):
            tunnel = self.tunnels.get(event.stream_id)
            if tunnel and tunnel.reset_code is None:
                tunnel.reset_code = event.error_code
                tunnel.arrived.put_nowait((Reset(event.error_code), 0))
                self.credit.set()
                if not tunnel.response.done():
                    tunnel.response.set_result(None)

    async def drain(self):
        self.is_draining = True
        self.frame(7, struct.pack(">II", 2**31 - 1, 0))
        self.connection.ping(b"shutdown")
        await self.flush()


def text(value):
    return value.decode() if isinstance(value, bytes) else value


def identity(tls):
    certificate = x509.load_der_x509_certificate(tls.getpeercert(binary_form=True))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.UniformResourceIdentifier)[0]


def context(role, directory):
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if role == "server" else ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_REQUIRED
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    if role == "server":
        made.num_tickets = 0
    made.load_cert_chain(f"{directory}/cert-chain.pem", f"{directory}/key.pem")
    made.load_verify_locations(f"{directory}/root-cert.pem")
    made.set_alpn_protocols(["h2"])
    return made


# MARK: Server


async def serve(tunnel, headers):
    side = tunnel.side
    authority = headers.get(":authority", "")
    report("request", authority=authority, peer=side.peer, headers=headers)

    async def answer(status, end):
        fields = [(":status", str(status))] + ([("baggage", BAGGAGE)] if status == 200 else [])
        side.connection.send_headers(tunnel.number, fields, end_stream=end)
        tunnel.sent_end = end
        await side.flush()

    host, _, port = authority.rpartition(":")
    if headers.get(":method") != "CONNECT" or host != side.writer.get_extra_info("sockname")[0]:
        return await answer(400, True)
    if IDENTITY.match(side.peer)[2] != "prod":
        return await answer(401, True)
    try:
        reader, writer = await asyncio.open_connection(host, int(port))
    except OSError:
        return await answer(503, True)
    await answer(200, False)

    async def up():
        try:
            while data := await tunnel.read():
                writer.write(data)
                await writer.drain()
            writer.write_eof()
        except Reset as reset:
            report("reset", code=int(reset.code))
            writer.transport.abort()
        except OSError:
            pass

    async def down():
        try:
            while data := await reader.read(1 << 18):
                await tunnel.write(data)
        except OSError:
            pass  # Swallowed (ztunnel issue 1483): the client sees a clean end.
        except Reset:
            return
        try:
            await tunnel.end()
        except (Reset, h2.exceptions.ProtocolError):
            pass

    await asyncio.gather(up(), down())
    writer.close()


async def server(directory, ping_interval):
    sides = set()

    async def accepted(reader, writer):
        own = x509.load_pem_x509_certificate(open(f"{directory}/cert-chain.pem", "rb").read())
        names = own.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        domain = IDENTITY.match(names.get_values_for_type(x509.UniformResourceIdentifier)[0])[1]
        match = IDENTITY.match(identity(writer.get_extra_info("ssl_object")))
        if not match or match[1] != domain:
            report("refused", reason="the certificate's identity is not of this trust domain")
            return writer.close()
        side = Side("server", reader, writer, ping_interval)
        sides.add(side)
        await side.run()
        sides.discard(side)

    listener = await asyncio.start_server(accepted, "127.0.0.1", 0, ssl=context("server", directory))
    report("listening", port=listener.sockets[0].getsockname()[1])
    async for words in commands():
        if words[0] == "goaway":
            for side in list(sides):
                await side.drain()


# MARK: Client


async def client(port, directory, ping_interval):
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context("client", directory), server_hostname="")
    except OSError as error:
        return report("refused", reason=str(error))
    side = Side("client", reader, writer, ping_interval)
    running = asyncio.create_task(side.run())
    report("connected", peer=side.peer)
    tunnels, works = {}, {}
    async for words in commands():
        verb, name = words[0], int(words[1]) if len(words) > 1 else 0
        if verb == "open":
            fields = dict(word.split("=", 1) for word in words[3:])
            works[name] = asyncio.Queue()
            tunnels[name] = await request(side, name, words[2], fields, works[name])
        elif verb == "reset":
            await tunnels[name].reset(int(words[2]))
        elif verb in ("send", "end"):
            works[name].put_nowait(int(words[2]) if verb == "send" else None)
        elif verb == "close":
            side.writer.close()
    running.cancel()


async def request(side, name, authority, fields, work):
    number = side.connection.get_next_available_stream_id()
    tunnel = side.tunnels[number] = Tunnel(side, number)
    headers = [(":method", "CONNECT"), (":authority", authority)] + list(
        {
            "baggage": BAGGAGE,
            "forwarded": 'for="127.0.0.1:80"',
            "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
            **fields,
        }.items()
    )
    side.connection.send_headers(number, headers)
    await side.flush()

    async def receive():
        response = await tunnel.response
        if response is None:
            return report("reset", stream=name, code=int(tunnel.reset_code or 0), count=0)
        status = int(response[":status"])
        report("response", stream=name, status=status)
        if status != 200:
            # The tunnel is dropped, and so is the application's connection; nothing is tried again.
            return await tunnel.reset(h2.errors.ErrorCodes.CANCEL)
        sending = asyncio.create_task(send())
        received = Tally()
        try:
            while data := await tunnel.read():
                received.add(data)
            report("ended", stream=name, **received.result)
        except Reset as reset:
            report("reset", stream=name, code=int(reset.code), count=received.count)
        await sending

    async def send():
        sent = Tally()
        try:
            while (count := await work.get()) is not None:
                while count > 0:
                    piece = BLOCK[:count]
                    count -= len(piece)
                    sent.add(piece)
                    await tunnel.write(piece)
            await tunnel.end()
            report("sent", stream=name, **sent.result)
        except (Reset, h2.exceptions.ProtocolError) as error:
            report("stopped", stream=name, reason=repr(error))

    tunnel.task = asyncio.create_task(receive())
    return tunnel


async def commands():
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        yield line.decode().split()


def main():
    arguments, interval = sys.argv[1:], PING_INTERVAL
    if "--ping" in arguments:
        index = arguments.index("--ping")
        interval = float(arguments[index + 1])
        del arguments[index : index + 2]
    if arguments[0] == "client":
        asyncio.run(client(int(arguments[1]), arguments[2], interval))
    else:
        asyncio.run(server(arguments[1], interval))


main()

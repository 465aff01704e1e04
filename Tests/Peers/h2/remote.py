"""An HTTP/2 peer that a test moves by hand: it does what its standard input says and prints what it received.

    remote.py server            listens on 127.0.0.1, prints {"event": "listening", "port": N}
    remote.py client PORT       connects to 127.0.0.1:PORT

The state machine is python-h2's, but nothing happens by itself: no window updates, no answers. One command a line:

    settings NAME=VALUE…        SETTINGS beyond the first one (which options on the command line set: --settings NAME=VALUE)
    headers STREAM [end] NAME=VALUE…
    data STREAM TEXT [end]      one DATA frame
    fill STREAM COUNT [end]     COUNT bytes of zeros, as far as windows allow at once; prints {"event": "filled", …}
    end STREAM                  empty DATA with END_STREAM
    reset STREAM CODE           goaway LAST CODE           ping TEXT8
    credit STREAM COUNT         WINDOW_UPDATE for the stream and the connection
    frame TYPE STREAM FLAGS HEX a frame past the state machine; TYPE and FLAGS are numbers
    raw HEX                     bytes
    half                        shutdown(SHUT_WR)          abort        TCP RST
"""
import json
import select
import socket
import struct
import sys

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
import hyperframe.frame


def report(event, **values):
    print(json.dumps({"event": event, **values}, sort_keys=True), flush=True)


def text(value):
    return value.decode() if isinstance(value, bytes) else value


def describe(event):
    name = type(event).__name__
    values = {}
    for key in ("stream_id", "error_code", "last_stream_id", "flow_controlled_length", "delta"):
        if getattr(event, key, None) is not None:
            values[key] = int(getattr(event, key))
    if isinstance(event, (h2.events.RequestReceived, h2.events.ResponseReceived)):
        values["headers"] = [[text(name), text(value)] for name, value in event.headers]
        values["end"] = event.stream_ended is not None
    if isinstance(event, h2.events.DataReceived):
        values["length"] = len(event.data)
        values["end"] = event.stream_ended is not None
        values["text"] = event.data[:64].decode("latin-1")
    if isinstance(event, h2.events.RemoteSettingsChanged):
        values["settings"] = {str(int(k)): v.new_value for k, v in event.changed_settings.items()}
    if isinstance(event, (h2.events.PingReceived, h2.events.PingAckReceived)):
        values["data"] = event.ping_data.hex()
    report(name, **values)


def settings_from(words):
    result = {}
    for word in words:
        name, value = word.split("=")
        result[getattr(h2.settings.SettingCodes, name)] = int(value)
    return result


class Remote:
    def __init__(self, role, port, settings):
        if role == "server":
            listener = socket.create_server(("127.0.0.1", 0))
            report("listening", port=listener.getsockname()[1])
            self.socket, _ = listener.accept()
            listener.close()
        else:
            self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection = h2.connection.H2Connection(
            h2.config.H2Configuration(
                client_side=role == "client",
                validate_inbound_headers=False,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self.connection.local_settings = h2.settings.Settings(client=role == "client", initial_values=settings)
        if h2.settings.SettingCodes.MAX_FRAME_SIZE in settings:
            self.connection.max_inbound_frame_size = settings[h2.settings.SettingCodes.MAX_FRAME_SIZE]
        # python-h2 takes GOAWAY for the end of everything; a draining connection goes on.
        self.connection._frame_dispatch_table[hyperframe.frame.GoAwayFrame] = self.received_goaway
        self.connection.initiate_connection()
        self.flush()

    def received_goaway(self, frame):
        report("ConnectionTerminated", error_code=frame.error_code, last_stream_id=frame.last_stream_id)
        return [], []

    def flush(self):
        data = self.connection.data_to_send()
        if data:
            self.socket.sendall(data)

    def command(self, line):
        connection, words = self.connection, line.split(" ")
        verb, words = words[0], words[1:]
        end = "end" in words
        if verb == "settings":
            connection.update_settings(settings_from(words))
        elif verb == "headers":
            fields = [tuple(word.split("=", 1)) for word in words[1:] if word != "end"]
            connection.send_headers(int(words[0]), fields, end_stream=end)
        elif verb == "data":
            connection.send_data(int(words[0]), words[1].encode(), end_stream=end)
        elif verb == "fill":
            self.fill(int(words[0]), int(words[1]), end)
        elif verb == "end":
            connection.end_stream(int(words[0]))
        elif verb == "reset":
            connection.reset_stream(int(words[0]), h2.errors.ErrorCodes(int(words[1])))
        elif verb == "goaway":
            payload = struct.pack(">II", int(words[0]), int(words[1]))
            self.frame(7, 0, 0, payload)
        elif verb == "ping":
            connection.ping(words[0].encode())
        elif verb == "credit":
            connection.increment_flow_control_window(int(words[1]), int(words[0]))
            connection.increment_flow_control_window(int(words[1]))
        elif verb == "frame":
            self.frame(int(words[0]), int(words[1]), int(words[2]), bytes.fromhex(words[3] if len(words) > 3 else ""))
        elif verb == "raw":
            self.flush()
            self.socket.sendall(bytes.fromhex(words[0]))
        elif verb == "half":
            self.socket.shutdown(socket.SHUT_WR)
        elif verb == "abort":
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.socket.close()
            sys.exit(0)
        else:
            raise SystemExit(f"unknown command {verb}")
        self.flush()
        report("done", command=line)

    def fill(self, stream, count, end):
        sent = 0
        while sent < count:
            size = min(
                count - sent,
                self.connection.local_flow_control_window(stream),
                self.connection.max_outbound_frame_size,
            )
            if size <= 0:
                break
            self.connection.send_data(stream, bytes(size), end_stream=end and sent + size == count)
            self.flush()
            sent += size
        report("filled", stream=stream, count=sent)

    def frame(self, kind, stream, flags, payload):
        self.flush()
        header = struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream)
        self.socket.sendall(header + payload)

    def run(self):
        commands = b""
        while True:
            ready, _, _ = select.select([self.socket, sys.stdin.buffer.raw], [], [])
            if self.socket in ready:
                try:
                    data = self.socket.recv(1 << 20)
                except ConnectionResetError:
                    report("aborted")
                    return
                if not data:
                    report("closed")
                    return
                try:
                    events = self.connection.receive_data(data)
                except Exception as error:
                    report("broken", reason=repr(error))
                    self.flush()
                    return
                for event in events:
                    describe(event)
                try:
                    self.flush()
                except OSError:
                    report("aborted")
                    return
            if sys.stdin.buffer.raw in ready:
                chunk = sys.stdin.buffer.raw.read(65536)
                if not chunk:
                    return
                commands += chunk
                *lines, commands = commands.split(b"\n")
                for line in lines:
                    try:
                        self.command(line.decode())
                    except OSError:
                        report("aborted")
                        return


def main():
    arguments = sys.argv[1:]
    settings = {}
    if "--settings" in arguments:
        index = arguments.index("--settings")
        settings = settings_from(arguments[index + 1:])
        arguments = arguments[:index]
    Remote(arguments[0], int(arguments[1]) if len(arguments) > 1 else 0, settings).run()


main()

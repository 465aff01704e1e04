#!/usr/bin/env python3
"""A TLS client whose last flight of the handshake can be held up until its standard input ends. Verifies nobody.

    late.py PORT hold|go ping [CREDENTIAL]    says "ping", prints "echoed" when it comes back, and stays
    late.py PORT hold|go get                  a request of HTTP/1.1; prints the first line of the answer, and stays

With `hold` it prints `held` and waits. `ping` stays until the connection ends, `get` until its input does; `ended` is printed for a
connection that does.
"""
import socket
import ssl
import sys

port, holds, asks = int(sys.argv[1]), sys.argv[2] == "hold", sys.argv[3]
context = ssl.create_default_context()
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
if len(sys.argv) > 4:
    context.load_cert_chain(sys.argv[4] + "/cert-chain.pem", sys.argv[4] + "/key.pem")
incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
tls = context.wrap_bio(incoming, outgoing)
raw = socket.create_connection(("127.0.0.1", port), 600)


def run(action, flushes=True):
    while True:
        try:
            result = action()
        except ssl.SSLWantReadError:
            raw.sendall(outgoing.read())
            data = raw.recv(65536)
            if data:
                incoming.write(data)
            else:
                incoming.write_eof()
            continue
        if flushes:
            raw.sendall(outgoing.read())
        return result


def say(text):
    print(text, flush=True)


try:
    # In TLS 1.3 the client is done once it has written its last flight.
    run(tls.do_handshake, not holds)
    if holds:
        say("held")
        sys.stdin.read()
    if asks == "ping":
        run(lambda: tls.write(b"ping"))
        say("echoed" if run(lambda: tls.read(4)) == b"ping" else "lost")
        run(lambda: tls.read(1))
        say("ended")
    else:
        run(lambda: tls.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"))
        say(run(lambda: tls.read(65536)).decode().split("\r\n")[0] or "ended")
        sys.stdin.read()
except OSError as error:
    say(f"ended {error}")

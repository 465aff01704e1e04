"""A TLS client: client.py PORT CERTIFICATE NAME VERIFIED PIECE COUNT

Connects to 127.0.0.1:PORT with NAME as server name, trusts CERTIFICATE alone and expects VERIFIED in it, sends what TLS
gives it in pieces of PIECE bytes, and expects COUNT bytes back that it sends. Prints the subject of the certificate
that it got, or the alert.
"""
import socket
import ssl
import sys

port, trusted, name, verified, piece, count = sys.argv[1:]
piece, count = int(piece), int(count)
context = ssl.create_default_context(cafile=trusted)
context.check_hostname = name == verified
incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
tls = context.wrap_bio(incoming, outgoing, server_hostname=name)
raw = socket.create_connection(("127.0.0.1", int(port)), timeout=60)
raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def flush():
    data = outgoing.read()
    for start in range(0, len(data), piece):
        raw.sendall(data[start : start + piece])


def run(action):
    while True:
        try:
            result = action()
            flush()
            return result
        except ssl.SSLWantReadError:
            flush()
            data = raw.recv(65536)
            if data:
                incoming.write(data)
            else:
                incoming.write_eof()


try:
    run(tls.do_handshake)
except ssl.SSLError as error:
    print("refused:", error.reason)
    sys.exit(1)
names = [value for kind, value in tls.getpeercert()["subjectAltName"] if kind == "DNS"]
assert verified in names, names
message = bytes(range(256)) * (count // 256 + 1)
message = message[:count]
echoed = b""
for start in range(0, count, 16384):
    run(lambda: tls.write(message[start : start + 16384]))
    while len(echoed) < min(count, start + 16384):
        echoed += run(lambda: tls.read(65536))
assert echoed == message
print(dict(pair for part in tls.getpeercert()["subject"] for pair in part)["commonName"], tls.version())

"""Servers that say which port of theirs a connection came to, and from where, and then echo.

    who.py PORT…        IPv4 and IPv6, TCP and UDP; prints "listening" when all of them do
"""

import selectors
import socket
import sys

selector = selectors.DefaultSelector()


def tcp(listener, port):
    connection, peer = listener.accept()
    connection.sendall(f"port {port} from {peer[0]}\n".encode())
    selector.register(connection, selectors.EVENT_READ, lambda: echo(connection))


def echo(connection):
    try:
        data = connection.recv(65536)
        if data:
            return connection.sendall(data)
    except OSError:
        pass
    selector.unregister(connection)
    connection.close()


def udp(server, port):
    data, peer = server.recvfrom(65536)
    server.sendto(f"udp {port} ".encode() + data, peer)


for port in map(int, sys.argv[1:]):
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        for kind, handler in ((socket.SOCK_STREAM, tcp), (socket.SOCK_DGRAM, udp)):
            server = socket.socket(family, kind)
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            server.bind((address, port))
            if kind == socket.SOCK_STREAM:
                server.listen(64)
            selector.register(server, selectors.EVENT_READ, lambda s=server, p=port, h=handler: h(s, p))
print("listening", flush=True)
while True:
    for key, _ in selector.select():
        key.data()

"""An HTTPS server of a document: keys.py CREDENTIAL FILE

CREDENTIAL is a directory with cert-chain.pem and key.pem. FILE is read for each request: what it holds is the answer's
content, unless it begins with one of these words: `hang` (no answer), `status N`, `short` (ends before the content that it
has promised), `huge` (goes on for ever), `chunked` (the rest, in chunks). Prints its port, and each request's first line.
"""

import os
import socket
import ssl
import sys
import threading

credential, file = sys.argv[1], sys.argv[2]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(os.path.join(credential, "cert-chain.pem"), os.path.join(credential, "key.pem"))


def answer(connection):
    head = b""
    while b"\r\n\r\n" not in head:
        data = connection.recv(65536)
        if not data:
            return
        head += data
    print(head.split(b"\r\n")[0].decode(), flush=True)
    with open(file, "rb") as document:
        content = document.read()
    if content.startswith(b"hang"):
        while connection.recv(65536):
            pass
    elif content.startswith(b"status "):
        connection.sendall(b"HTTP/1.1 " + content.split()[1] + b" No\r\ncontent-length: 0\r\n\r\n")
    elif content.startswith(b"short"):
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n{")
    elif content.startswith(b"huge"):
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(b" " * 65536)
    elif content.startswith(b"chunked"):
        connection.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for byte in content[7:]:
            connection.sendall(b"1\r\n" + bytes([byte]) + b"\r\n")
        connection.sendall(b"0\r\n\r\n")
    else:
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(content) + content)


def serve(raw):
    with raw:
        try:
            connection = context.wrap_socket(raw, server_side=True)
            answer(connection)
            connection.unwrap()
        except (OSError, ssl.SSLError) as error:
            print("failed", error, file=sys.stderr, flush=True)


server = socket.create_server(("127.0.0.1", 0), backlog=128)
print(server.getsockname()[1], flush=True)
while True:
    client, _ = server.accept()
    threading.Thread(target=serve, args=(client,), daemon=True).start()

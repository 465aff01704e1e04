"""A TLS server that sends back what it gets: echo.py CREDENTIAL [CLIENTS] [tls12] [abrupt]

CREDENTIAL is a directory with cert-chain.pem and key.pem; CLIENTS the roots of the client certificates it insists on,
or -; an abrupt one ends without a close_notify. Prints its port, and for each connection the name that was asked for,
the version, and the client's names.
"""
import os
import socket
import ssl
import sys
import threading

credential, options = sys.argv[1], sys.argv[2:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(os.path.join(credential, "cert-chain.pem"), os.path.join(credential, "key.pem"))
if options and options[0] != "-":
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(options[0])
if "tls12" in options:
    context.maximum_version = ssl.TLSVersion.TLSv1_2


def remember(connection, name, _):
    connection.asked = name


context.sni_callback = remember


def serve(raw):
    with raw:
        try:
            connection = context.wrap_socket(raw, server_side=True)
            client = [value for _, value in (connection.getpeercert() or {}).get("subjectAltName", [])]
            print(getattr(connection, "asked", None), connection.version(), *client, flush=True)
            while data := connection.recv(65536):
                connection.sendall(data)
            if "abrupt" not in options:
                connection.unwrap()
        except (OSError, ssl.SSLError) as error:
            print("failed", error, file=sys.stderr, flush=True)


server = socket.create_server(("127.0.0.1", 0), backlog=128)
print(server.getsockname()[1], flush=True)
while True:
    client, _ = server.accept()
    threading.Thread(target=serve, args=(client,), daemon=True).start()

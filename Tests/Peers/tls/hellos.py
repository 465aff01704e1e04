"""ClientHellos as real clients send them, one a line: LABEL HEX.

hellos.py NAME, the server name that they ask for.
"""
import socket
import ssl
import subprocess
import sys
import threading

name = sys.argv[1]


def memory(label, server_name, configure=lambda context: None):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    configure(context)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    connection = context.wrap_bio(incoming, outgoing, server_hostname=server_name)
    try:
        connection.do_handshake()
    except ssl.SSLWantReadError:
        pass
    print(label, outgoing.read().hex())


def tls12(context):
    context.maximum_version = ssl.TLSVersion.TLSv1_2


def program(label, command):
    """What a program sends before it has an answer."""
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(30)
    port = str(server.getsockname()[1])
    received = []

    def accept():
        connection, _ = server.accept()
        connection.settimeout(30)
        data = b""
        while len(data) < 5 or len(data) < 5 + int.from_bytes(data[3:5], "big"):
            piece = connection.recv(65536)
            if not piece:
                break
            data += piece
        received.append(data)
        connection.close()

    thread = threading.Thread(target=accept)
    thread.start()
    subprocess.run([part.replace("PORT", port) for part in command], stdin=subprocess.DEVNULL,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=30)
    thread.join()
    print(label, received[0].hex())


memory("python", name)
memory("python-tls12", name, tls12)
memory("python-alpn", name, lambda context: context.set_alpn_protocols(["h2", "http/1.1"]))
memory("python-no-name", None)
memory("python-tls12-no-name", None, tls12)
program("openssl", ["openssl", "s_client", "-connect", "127.0.0.1:PORT", "-servername", name])
program("openssl-tls12", ["openssl", "s_client", "-tls1_2", "-connect", "127.0.0.1:PORT", "-servername", name])
program("openssl-no-name", ["openssl", "s_client", "-noservername", "-connect", "127.0.0.1:PORT"])
program("curl", ["curl", "-s", "-k", "--max-time", "20", "--resolve", name + ":PORT:127.0.0.1",
                 "https://" + name + ":PORT/"])

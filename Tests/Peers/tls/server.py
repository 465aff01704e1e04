"""A TLS server: server.py DIRECTORY NAME…

Makes a certificate for the names, DIRECTORY/cert.pem, prints its port, and answers each HTTP request with the server
name that the client asked for and its TLS version; what is not HTTP it sends back.
"""
import datetime
import os
import socket
import ssl
import sys
import threading

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

directory, names = sys.argv[1], sys.argv[2:]
key = ec.generate_private_key(ec.SECP256R1())
subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "the server's own")])
now = datetime.datetime.now(datetime.timezone.utc)
certificate = (
    x509.CertificateBuilder()
    .subject_name(subject)
    .issuer_name(subject)
    .public_key(key.public_key())
    .serial_number(x509.random_serial_number())
    .not_valid_before(now - datetime.timedelta(days=1))
    .not_valid_after(now + datetime.timedelta(days=1))
    .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), False)
    .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
    .sign(key, hashes.SHA256())
)
with open(os.path.join(directory, "cert.pem"), "wb") as file:
    file.write(certificate.public_bytes(serialization.Encoding.PEM))
with open(os.path.join(directory, "server-key.pem"), "wb") as file:
    file.write(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(os.path.join(directory, "cert.pem"), os.path.join(directory, "server-key.pem"))


def remember(connection, name, _):
    connection.asked = name


context.sni_callback = remember


def serve(raw):
    with raw:
        try:
            connection = context.wrap_socket(raw, server_side=True)
            data = connection.recv(65536)
            if data.startswith(b"GET "):
                text = f"{getattr(connection, 'asked', None)} {connection.version()}\n"
                connection.sendall(f"HTTP/1.0 200 OK\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode())
            else:
                while data:
                    connection.sendall(data)
                    data = connection.recv(65536)
            connection.unwrap()
        except (OSError, ssl.SSLError):
            pass


server = socket.create_server(("127.0.0.1", 0), backlog=128)
print(server.getsockname()[1], flush=True)
while True:
    client, _ = server.accept()
    threading.Thread(target=serve, args=(client,), daemon=True).start()

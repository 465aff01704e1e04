#!/usr/bin/env python3
"""A stand-in for istiod's CA, which cannot be had here: a real gRPC server (grpcio) with real messages (protobuf), whose service is
istio.v1.auth.IstioCertificateService of istio/api, security/v1alpha1/ca.proto, written down from there.

    istiod.py DIRECTORY MODE

DIRECTORY gets server-root.pem (who vouches for the server's certificate, which is for istiod.istio-system.svc and localhost), other-root.pem
(who does not) and root.pem (the mesh's root). The token `good-token` is that of spiffe://test.example/ns/default/sa/dev7; any other is refused.
Each call is written to DIRECTORY/calls as a line of JSON. Prints `ready PORT`.

MODE: ok, no-root, wrong-identity, wrong-key, garbage (no PEM), damaged (no protobuf), empty, huge, hang, internal, echo (the token in the message).
"""
import datetime, json, os, sys, threading
from concurrent import futures

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, struct_pb2  # noqa: F401 (Struct is a dependency)

directory, mode = sys.argv[1:3]
now = datetime.datetime.now(datetime.timezone.utc)
IDENTITY = "spiffe://test.example/ns/default/sa/dev7"


def messages():
    kind = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="security/v1alpha1/ca.proto", package="istio.v1.auth", syntax="proto3", dependency=["google/protobuf/struct.proto"])
    request = file.message_type.add(name="IstioCertificateRequest")
    request.field.add(name="csr", number=1, type=kind.TYPE_STRING, label=kind.LABEL_OPTIONAL)
    request.field.add(name="validity_duration", number=3, type=kind.TYPE_INT64, label=kind.LABEL_OPTIONAL)
    request.field.add(
        name="metadata", number=4, type=kind.TYPE_MESSAGE, type_name=".google.protobuf.Struct", label=kind.LABEL_OPTIONAL)
    response = file.message_type.add(name="IstioCertificateResponse")
    response.field.add(name="cert_chain", number=1, type=kind.TYPE_STRING, label=kind.LABEL_REPEATED)
    pool = descriptor_pool.Default()
    pool.Add(file)
    return [message_factory.GetMessageClass(pool.FindMessageTypeByName("istio.v1.auth." + name))
            for name in ("IstioCertificateRequest", "IstioCertificateResponse")]


Request, Response = messages()


def pem(certificate):
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def sign(name, key, issuer, issuer_key, extensions, lifetime=datetime.timedelta(days=1)):
    builder = (x509.CertificateBuilder().subject_name(name).issuer_name(issuer).public_key(key)
               .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(minutes=2))
               .not_valid_after(datetime.datetime.now(datetime.timezone.utc) + lifetime))
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(issuer_key, hashes.SHA256())


def usage(**what):
    names = ["digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
             "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"]
    return x509.KeyUsage(**{name: what.get(name, False) for name in names})


def authority(organization):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization)])
    certificate = sign(name, key.public_key(), name, key, [
        (x509.BasicConstraints(ca=True, path_length=None), True),
        (usage(key_cert_sign=True, crl_sign=True), True),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)])
    return key, certificate


def leaf(public_key, ca_key, ca, names, lifetime=datetime.timedelta(days=1)):
    return sign(x509.Name([]), public_key, ca.subject, ca_key, [
        (x509.SubjectAlternativeName(names), True),
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (usage(digital_signature=True, key_encipherment=True), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), False)], lifetime)


mesh_key, mesh_root = authority("cluster.local")
server_ca_key, server_root = authority("istiod's own")
_, other_root = authority("somebody else")
for name, certificate in [("root", mesh_root), ("server-root", server_root), ("other-root", other_root)]:
    with open(f"{directory}/{name}.pem", "w") as file:
        file.write(pem(certificate))
server_key = ec.generate_private_key(ec.SECP256R1())
server_leaf = leaf(server_key.public_key(), server_ca_key, server_root,
                   [x509.DNSName("istiod.istio-system.svc"), x509.DNSName("localhost")])
lock = threading.Lock()
ended = threading.Event()


def create_certificate(request, context):
    metadata = dict(context.invocation_metadata())
    with lock, open(f"{directory}/calls", "a") as file:
        file.write(json.dumps({
            "authority": metadata.get(":authority", ""), "authorization": metadata.get("authorization", ""),
            "seconds": request.validity_duration, "left": context.time_remaining(),
            "unknown": len(request.SerializeToString()) - len(Request(
                csr=request.csr, validity_duration=request.validity_duration).SerializeToString())}) + "\n")
    token = metadata.get("authorization", "").removeprefix("Bearer ")
    if mode == "echo":
        context.abort(grpc.StatusCode.INTERNAL, f"cannot use ä{token}")
    if token != "good-token":
        context.abort(grpc.StatusCode.UNAUTHENTICATED, "request authenticate failure")
    if mode == "hang":
        ended.wait()
    if mode == "internal":
        context.abort(grpc.StatusCode.INTERNAL, "CSR signing error:\nthe CA is\x1b[31m gone")
    if mode == "empty":
        return Response()
    if mode == "garbage":
        return Response(cert_chain=["-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
    if mode == "huge":
        return Response(cert_chain=["x" * (3 << 20)])
    csr = x509.load_pem_x509_csr(request.csr.encode())
    assert csr.is_signature_valid
    public_key = ec.generate_private_key(ec.SECP256R1()).public_key() if mode == "wrong-key" else csr.public_key()
    # The token says who is asking; what the request says does not count.
    identity = "spiffe://test.example/ns/default/sa/admin" if mode == "wrong-identity" else IDENTITY
    certificate = leaf(public_key, mesh_key, mesh_root, [x509.UniformResourceIdentifier(identity)],
                       datetime.timedelta(seconds=request.validity_duration))
    return Response(cert_chain=[pem(certificate)] + ([] if mode == "no-root" else [pem(mesh_root)]))


def serialize(response):
    return b"\x0a\xff" if mode == "damaged" else response.SerializeToString()


service = grpc.method_handlers_generic_handler("istio.v1.auth.IstioCertificateService", {
    "CreateCertificate": grpc.unary_unary_rpc_method_handler(create_certificate, Request.FromString, serialize)})
server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
server.add_generic_rpc_handlers([service])
key = server_key.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, pem(server_leaf).encode())]))
server.start()
print(f"ready {port}", flush=True)
# Until whoever started this is gone.
sys.stdin.read()
ended.set()
server.stop(0)
os._exit(0)

#!/usr/bin/env python3
"""A stand-in for a SPIFFE agent (SPIRE), which cannot be had here: a real gRPC server (grpcio) with real messages (protobuf) on a Unix socket,
whose service is SpiffeWorkloadAPI of the SPIFFE specifications, workload.proto, written down from there.

    agent.py SOCKET DIRECTORY

DIRECTORY gets root.pem and partner.pem (the roots of mesh.example and partner.example), and for each of the two a credential directory, peer
and partner, of members who are no nodes; what is there already is used again. Standard input has lines of JSON, each of which says what is sent
from then on, to those who listen and to those who come:

    {"svids": [{"id": …, "names": …, "by": "root", "key": "own", "lifetime": 3600, "age": 60}], "federated": ["partner"], "what": "svids"}

`names` is the ID in the certificate, `key` "other" is another one's. what: svids, denied, garbage, huge, empty. Prints `ready`, `stream` for each
who asks, and `sent N` for each line. Before the first line it says nothing to anybody.
"""
import datetime, json, os, sys, threading
from concurrent import futures

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

socket, directory = sys.argv[1:3]
DER, PEM = serialization.Encoding.DER, serialization.Encoding.PEM
# Roots are bound to their trust domains, as SPIRE's are.
DOMAINS = {"root": "spiffe://mesh.example", "partner": "spiffe://partner.example"}
NAMES = ["digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign", "crl_sign",
         "encipher_only", "decipher_only"]


def say(*words):
    print(*words, flush=True)


def messages():
    kind = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="workload.proto", syntax="proto3")
    file.message_type.add(name="X509SVIDRequest")
    svid = file.message_type.add(name="X509SVID")
    for number, (name, of) in enumerate([("spiffe_id", kind.TYPE_STRING), ("x509_svid", kind.TYPE_BYTES),
                                         ("x509_svid_key", kind.TYPE_BYTES), ("bundle", kind.TYPE_BYTES), ("hint", kind.TYPE_STRING)], 1):
        svid.field.add(name=name, number=number, type=of, label=kind.LABEL_OPTIONAL)
    response = file.message_type.add(name="X509SVIDResponse")
    response.field.add(name="svids", number=1, type=kind.TYPE_MESSAGE, type_name=".X509SVID", label=kind.LABEL_REPEATED)
    response.field.add(name="crl", number=2, type=kind.TYPE_BYTES, label=kind.LABEL_REPEATED)
    entry = response.nested_type.add(name="FederatedBundlesEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=kind.TYPE_STRING, label=kind.LABEL_OPTIONAL)
    entry.field.add(name="value", number=2, type=kind.TYPE_BYTES, label=kind.LABEL_OPTIONAL)
    response.field.add(name="federated_bundles", number=3, type=kind.TYPE_MESSAGE,
                       type_name=".X509SVIDResponse.FederatedBundlesEntry", label=kind.LABEL_REPEATED)
    pool = descriptor_pool.Default()
    pool.Add(file)
    return [message_factory.GetMessageClass(pool.FindMessageTypeByName(name)) for name in ("X509SVIDRequest", "X509SVIDResponse")]


Request, Response = messages()


def usage(*names):
    return x509.KeyUsage(**{name: name in names for name in NAMES})


def build(subject, issuer, key, age, lifetime):
    now = datetime.datetime.now(datetime.timezone.utc)
    return (x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(seconds=age))
            .not_valid_after(now + datetime.timedelta(seconds=lifetime)))


def key_bytes(key, encoding):
    return key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def authority(name):
    place = os.path.join(directory, name)
    if os.path.exists(place + ".key"):
        return (x509.load_pem_x509_certificate(open(place + ".pem", "rb").read()),
                serialization.load_pem_private_key(open(place + ".key", "rb").read(), None))
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, name)])
    made = (build(subject, subject, key, 3600 * 24, 3600 * 24 * 30).add_extension(x509.BasicConstraints(True, None), True)
            .add_extension(usage("key_cert_sign", "crl_sign"), True)
            .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(DOMAINS[name])]), False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False).sign(key, hashes.SHA256()))
    open(place + ".pem", "wb").write(made.public_bytes(PEM))
    open(place + ".key", "wb").write(key_bytes(key, PEM))
    return made, key


def leaf(id, by, age=60, lifetime=3600):
    ca, signer = by
    key = ec.generate_private_key(ec.SECP256R1())
    made = (build(x509.Name([]), ca.subject, key, age, lifetime)
            .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(id)]), True)
            .add_extension(x509.BasicConstraints(False, None), True).add_extension(usage("digital_signature"), True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False).sign(signer, hashes.SHA256()))
    return made, key


def directory_of(name, id, by):
    place = os.path.join(directory, name)
    if os.path.exists(place):
        return
    os.mkdir(place)
    certificate, key = leaf(id, by)
    open(place + "/cert-chain.pem", "wb").write(certificate.public_bytes(PEM))
    open(place + "/root-cert.pem", "wb").write(by[0].public_bytes(PEM))
    with open(os.open(place + "/key.pem", os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
        file.write(key_bytes(key, PEM))


authorities = {name: authority(name) for name in ("root", "partner")}
directory_of("peer-of-mesh", "spiffe://mesh.example/ns/prod/sa/client", authorities["root"])
directory_of("peer-of-partner", "spiffe://partner.example/ns/prod/sa/app", authorities["partner"])
changed = threading.Condition()
version, present = 0, None


def response(order):
    if order.get("what") == "garbage":
        return b"\x0a\xff\xff\xff\xff\x0f" + b"\x07" * 64
    answer = Response()
    for spec in order.get("svids", []):
        certificate, key = leaf(spec.get("names", spec["id"]), authorities[spec.get("by", "root")], spec.get("age", 60),
                                spec.get("lifetime", 3600))
        if spec.get("key") == "other":
            key = ec.generate_private_key(ec.SECP256R1())
        answer.svids.add(spiffe_id=spec["id"], x509_svid=certificate.public_bytes(DER), x509_svid_key=key_bytes(key, DER),
                         bundle=authorities["root"][0].public_bytes(DER))
    for name in order.get("federated", []):
        answer.federated_bundles["spiffe://%s.example" % name] = authorities[name][0].public_bytes(DER)
    if order.get("what") == "huge":
        answer.federated_bundles["spiffe://huge.example"] = b"\x30" * (5 << 20)
    return answer.SerializeToString()


def fetch(requests, context):
    if ("workload.spiffe.io", "true") not in context.invocation_metadata():
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "security header missing from request")
    # As grpc-java and tonic: a method that takes one message begins when the request has ended.
    messages = [Request.FromString(request) for request in requests]
    if len(messages) != 1:
        context.abort(grpc.StatusCode.INTERNAL, "there are %d messages in the request" % len(messages))
    say("stream")
    seen = 0
    context.add_callback(wake)
    while context.is_active():
        with changed:
            changed.wait_for(lambda: version > seen or not context.is_active())
            seen, now = version, present
        if now == "denied":
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "no identity issued")
        if now is not None and context.is_active():
            yield now


def wake():
    with changed:
        changed.notify_all()


server = grpc.server(futures.ThreadPoolExecutor(32), options=[("grpc.max_send_message_length", 64 << 20)])
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(
    "SpiffeWorkloadAPI", {"FetchX509SVID": grpc.stream_stream_rpc_method_handler(fetch)}),))
server.add_insecure_port("unix:" + socket)
server.start()
say("ready")
for line in sys.stdin:
    order = json.loads(line)
    made = "denied" if order.get("what") == "denied" else response(order)
    with changed:
        version, present = version + 1, made
        changed.notify_all()
    say("sent", version)
server.stop(0).wait()

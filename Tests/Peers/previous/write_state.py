"""Writes what release 0.1.0 (commit 8b34092) left behind when it enrolled a device: at the operator, and on the device.

The layout, the names, the modes and the texts are those that `find -ls` and `.dump` showed after an enrolment by a binary of that
commit. Keys and certificates are made here, so that no private key is kept and none expires: the device was enrolled two days ago, its
certificate ended a day ago, and the machine was off since, so that its process number file names nothing.

    write_state.py HOME BASE KEY=VALUE...

HOME is $BOOTSTRAP_HOME, BASE what was given to `enroll --base`; the keys are the $names of ledger.sql and node.yaml, and `agent`: the
program that lies where the agent of that release was.
"""

import datetime
import hashlib
import os
import shutil
import sqlite3
import string
import sys

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

HERE = os.path.dirname(os.path.abspath(__file__))
RELEASE = "0.1.0-a61355dc0d18"
USAGES = ["digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign",
          "crl_sign", "encipher_only", "decipher_only"]


def usage(*names):
    return x509.KeyUsage(**{name: name in names for name in USAGES})


def pem(key):
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def write(path, content, mode):
    with open(path, "wb") as file:
        file.write(content)
    os.chmod(path, mode)


def directory(path, mode):
    os.makedirs(path, exist_ok=True)
    os.chmod(path, mode)


def authority(now):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "journey.example"),
                      x509.NameAttribute(NameOID.COMMON_NAME, "bootstrap CA")])
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=367)).not_valid_after(now + datetime.timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage("key_cert_sign", "crl_sign"), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://journey.example")]), critical=False)
        .sign(key, hashes.SHA256()))
    return key, certificate


def leaf(ca_key, ca, not_before, not_after):
    key = ec.generate_private_key(ec.SECP256R1())
    uri = x509.UniformResourceIdentifier("spiffe://journey.example/ns/default/sa/device1")
    certificate = (
        x509.CertificateBuilder().subject_name(x509.Name([])).issuer_name(ca.subject).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(not_before).not_valid_after(not_after)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage("digital_signature"), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .add_extension(x509.SubjectAlternativeName([uri]), critical=True)
        .sign(ca_key, hashes.SHA256()))
    return key, certificate


def main():
    home, base = sys.argv[1:3]
    values = dict(argument.split("=", 1) for argument in sys.argv[3:])
    now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    enrolled = now - datetime.timedelta(days=2)
    not_before, not_after = enrolled - datetime.timedelta(minutes=2), enrolled + datetime.timedelta(days=1)
    ca_key, ca = authority(now)
    key, certificate = leaf(ca_key, ca, not_before, not_after)
    root = ca.public_bytes(serialization.Encoding.PEM)

    # The operator.
    directory(home, 0o700)
    directory(f"{home}/ca", 0o700)
    write(f"{home}/ca/ca-key.pem", pem(ca_key), 0o600)
    write(f"{home}/ca/ca-cert.pem", root, 0o644)
    write(f"{home}/ca/root-cert.pem", root, 0o644)
    values.update(
        base=base, serial=f"{certificate.serial_number:040x}", root=hashlib.sha256(ca.public_bytes(serialization.Encoding.DER)).hexdigest(),
        issuer=x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()).digest.hex(), enrolled_at=int(enrolled.timestamp()),
        not_before=int(not_before.timestamp()), not_after=int(not_after.timestamp()))

    def text(name):
        with open(f"{HERE}/{name}", encoding="utf-8") as file:
            return string.Template(file.read()).substitute(values, NAMES="$NAMES")

    ledger = sqlite3.connect(f"{home}/ledger.sqlite")
    ledger.executescript(text("ledger.sql"))
    ledger.close()
    os.chmod(f"{home}/ledger.sqlite", 0o600)

    # The device.
    installation = f"{base}/bootstrap"
    state = f"{installation}/state"
    directory(f"{installation}/{RELEASE}", 0o755)
    shutil.copy(values["agent"], f"{installation}/{RELEASE}/bootstrap")
    os.symlink(RELEASE, f"{installation}/current")
    directory(state, 0o700)
    version = "..version-cb51623e4be55e9f"
    directory(f"{state}/identity/{version}", 0o755)
    for name, content, mode in [("key.pem", pem(key), 0o600), ("root-cert.pem", root, 0o644),
                                ("cert-chain.pem", certificate.public_bytes(serialization.Encoding.PEM), 0o644)]:
        write(f"{state}/identity/{version}/{name}", content, mode)
        os.symlink(f"..data/{name}", f"{state}/identity/{name}")
    os.symlink(version, f"{state}/identity/..data")
    directory(f"{state}/run", 0o700)
    write(f"{state}/node.yaml", text("node.yaml").encode(), 0o644)
    write(f"{state}/node.log", b"", 0o600)
    write(f"{state}/node.ready", f"ready hbone 127.0.0.1:{values['hbone_port']}\n".encode(), 0o600)
    # Above the largest number that Linux gives out.
    write(f"{state}/node.pid", b"4194305\n", 0o644)


main()

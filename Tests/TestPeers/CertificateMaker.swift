import Platform

/// Makes the certificates of a plan (argv[2], JSON) in a directory (argv[1]).
///
/// Authorities keep their keys there as `NAME.key`, so that a later run can sign with them.
let certificateMaker = #"""
    import datetime, ipaddress, json, os, sys
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    directory, plan = sys.argv[1], json.loads(sys.argv[2])
    now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    USAGES = ["digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
              "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"]
    PURPOSES = {"serverAuth": ExtendedKeyUsageOID.SERVER_AUTH, "clientAuth": ExtendedKeyUsageOID.CLIENT_AUTH}

    def make_key(kind):
        if kind.startswith("RSA-"):
            return rsa.generate_private_key(65537, int(kind[4:]))
        if kind == "ED25519":
            return ed25519.Ed25519PrivateKey.generate()
        return ec.generate_private_key({"P-256": ec.SECP256R1, "P-384": ec.SECP384R1, "secp256k1": ec.SECP256K1}[kind]())

    def write(path, data, mode=0o644):
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
            file.write(data)

    def pem(certificate):
        return certificate.public_bytes(serialization.Encoding.PEM)

    def key_pem(key):
        return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                 serialization.NoEncryption())

    def issuer_of(name):
        """An authority, or a leaf that signs as if it were one."""
        base = os.path.join(directory, name)
        certificate, key = (base + ".pem", base + ".key") if os.path.exists(base + ".pem") else \
            (base + "/cert-chain.pem", base + "/key.pem")
        return (x509.load_pem_x509_certificate(open(certificate, "rb").read()),
                serialization.load_pem_private_key(open(key, "rb").read(), None))

    def builder(subject, issuer, key, spec):
        return (x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
                .serial_number(x509.random_serial_number())
                .not_valid_before(now + datetime.timedelta(seconds=spec["notBefore"]))
                .not_valid_after(now + datetime.timedelta(seconds=spec["notAfter"]))
                .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False))

    def usage(names):
        return x509.KeyUsage(**{name: name in names for name in USAGES})

    for spec in plan["authorities"]:
        key = make_key("P-256")
        # All authorities have the same name: only keys tell them apart.
        subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "intermediate" if spec.get("issuer") else "mesh")])
        issuer, signer = issuer_of(spec["issuer"]) if spec.get("issuer") else (None, key)
        made = (builder(subject, issuer.subject if issuer else subject, key, spec)
                .add_extension(x509.BasicConstraints(True, None), True)
                .add_extension(usage(["key_cert_sign", "crl_sign"]), True)
                .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False))
        if spec["uris"]:
            made = made.add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in spec["uris"]]), False)
        if spec.get("extendedKeyUsage") is not None:
            made = made.add_extension(x509.ExtendedKeyUsage([PURPOSES[name] for name in spec["extendedKeyUsage"]]), False)
        base = os.path.join(directory, spec["name"])
        write(base + ".key", key_pem(key), 0o600)
        write(base + ".pem", pem(made.sign(signer, hashes.SHA256())))

    for spec in plan["leaves"]:
        key = make_key(spec["keyType"])
        issuer, signer = issuer_of(spec["issuer"])
        made = (builder(x509.Name([]), issuer.subject, key, spec)
                .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False))
        names = [x509.UniformResourceIdentifier(uri) for uri in spec["uris"]]
        names += [x509.DNSName(name) for name in spec["dnsNames"]]
        names += [x509.IPAddress(ipaddress.ip_address(address)) for address in spec["ipAddresses"]]
        if names:
            made = made.add_extension(x509.SubjectAlternativeName(names), True)
        if spec.get("isCA") is not None:
            made = made.add_extension(x509.BasicConstraints(spec["isCA"], None), True)
        if spec.get("keyUsage") is not None:
            made = made.add_extension(usage(spec["keyUsage"]), spec["isKeyUsageCritical"])
        if spec.get("extendedKeyUsage") is not None:
            made = made.add_extension(x509.ExtendedKeyUsage([PURPOSES[name] for name in spec["extendedKeyUsage"]]), False)
        place = os.path.join(directory, spec["name"])
        os.mkdir(place, 0o755)
        write(place + "/key.pem", key_pem(key), 0o600)
        write(place + "/cert-chain.pem", pem(made.sign(signer, hashes.SHA256())) + b"".join(
            open(os.path.join(directory, name + ".pem"), "rb").read() for name in spec["chain"]))
        write(place + "/root-cert.pem", b"".join(
            open(os.path.join(directory, name + ".pem"), "rb").read() for name in spec["roots"]))
    """#

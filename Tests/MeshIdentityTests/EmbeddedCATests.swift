import Foundation
import MeshIdentity
import Platform
import TestPeers
import Testing

@Suite struct EmbeddedCAs {
    private let directory = TemporaryDirectory()
    private let domain: TrustDomain
    private let id: SPIFFEID

    init() throws {
        domain = try TrustDomain("mesh.example")
        id = try SPIFFEID("spiffe://mesh.example/ns/prod/sa/db")
    }

    private func makeCA() throws -> EmbeddedCA {
        try EmbeddedCA.create(directory: directory.path("ca"), trustDomain: domain)
    }

    private func openssl(_ arguments: String...) async throws -> ChildProcess.Output {
        try await ChildProcess.run("openssl", arguments)
    }

    // MARK: What we issue, read by others

    @Test func opensslAcceptsWhatWeIssue() async throws {
        let ca = try makeCA()
        let request = try CertificateRequest.create(key: PrivateKey.generate(), id: id)
        let options = IssuanceOptions(dnsNames: ["db.example", "*.db.example"], ipAddresses: ["10.0.0.7", "fd00::1"])
        let issued = try ca.issue(request, id: id, options: options)
        let leaf = try directory.write("leaf.pem", issued.chain[0].pem)
        for purpose in ["sslserver", "sslclient"] {
            let check = try await openssl(
                "verify",
                "-x509_strict",
                "-purpose",
                purpose,
                "-CAfile",
                directory.path("ca/root-cert.pem"),
                leaf
            )
            #expect(check.succeeded, "\(check.standardError)")
        }
        for (option, name) in [("-verify_hostname", "www.db.example"), ("-verify_ip", "fd00::1")] {
            let root = directory.path("ca/root-cert.pem")
            #expect(try await openssl("verify", option, name, "-CAfile", root, leaf).succeeded)
        }
    }

    @Test func pythonFindsTheFieldsThatTheRulesAskFor() async throws {
        let ca = try makeCA()
        let request = try CertificateRequest.create(key: PrivateKey.generate(), id: id)
        let issued = try ca.issue(request, id: id, options: IssuanceOptions(dnsNames: ["db.example"]))
        try directory.write("request.pem", request.pem)
        try directory.write("leaf.pem", issued.chain[0].pem)
        let check = try await ChildProcess.run(
            TestTools.python,
            [
                "-c", Self.fieldCheck, directory.path("request.pem"), directory.path("leaf.pem"),
                directory.path("ca/ca-cert.pem"),
            ]
        )
        #expect(check.succeeded, "\(check.standardError)")
        #expect(check.standardOutput == "ok\n")
    }

    /// An independent reading of the X.509-SVID specification and of our own rules.
    private static let fieldCheck = """
        import sys, datetime
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import ExtendedKeyUsageOID as EKU
        request = x509.load_pem_x509_csr(open(sys.argv[1], "rb").read())
        leaf, ca = [x509.load_pem_x509_certificate(open(path, "rb").read()) for path in sys.argv[2:4]]
        get = lambda certificate, kind: certificate.extensions.get_extension_for_class(kind)
        ID = "spiffe://mesh.example/ns/prod/sa/db"
        assert request.is_signature_valid and len(request.subject.rdns) == 0
        names = get(request, x509.SubjectAlternativeName)
        assert names.critical and names.value.get_values_for_type(x509.UniformResourceIdentifier) == [ID]
        assert request.public_key() == leaf.public_key() and isinstance(leaf.public_key().curve, ec.SECP256R1)
        leaf.verify_directly_issued_by(ca)
        names = get(leaf, x509.SubjectAlternativeName)
        assert names.critical and names.value.get_values_for_type(x509.UniformResourceIdentifier) == [ID]
        assert names.value.get_values_for_type(x509.DNSName) == ["db.example"] and len(leaf.subject.rdns) == 0
        basic, usage = get(leaf, x509.BasicConstraints), get(leaf, x509.KeyUsage)
        assert basic.critical and not basic.value.ca and usage.critical
        usage = usage.value
        assert usage.digital_signature and not (usage.key_cert_sign or usage.crl_sign or usage.key_agreement)
        assert set(get(leaf, x509.ExtendedKeyUsage).value) == {EKU.SERVER_AUTH, EKU.CLIENT_AUTH}
        assert get(leaf, x509.AuthorityKeyIdentifier).value.key_identifier == get(ca, x509.SubjectKeyIdentifier).value.digest
        assert leaf.not_valid_after_utc - leaf.not_valid_before_utc == datetime.timedelta(hours=24, minutes=2)
        assert leaf.serial_number.bit_length() > 128 and ca.serial_number.bit_length() > 128
        basic, usage = get(ca, x509.BasicConstraints), get(ca, x509.KeyUsage)
        assert basic.critical and basic.value.ca and usage.critical and usage.value.key_cert_sign and usage.value.crl_sign
        assert not usage.value.digital_signature
        names = get(ca, x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["spiffe://mesh.example"]
        assert (ca.not_valid_after_utc - ca.not_valid_before_utc).days == 3650 + 365
        print("ok")
        """

    @Test func opensslAcceptsOurRequestAndWeItsOwn() async throws {
        let ours = try directory.write("ours.pem", CertificateRequest.create(key: PrivateKey.generate(), id: id).pem)
        #expect(try await openssl("req", "-in", ours, "-verify", "-noout").succeeded)
        for (name, extra) in [("plain", []), ("named", ["-addext", "subjectAltName=URI:\(id)"])] {
            let output = try await ChildProcess.run(
                "openssl",
                [
                    "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj",
                    "/CN=ignored",
                ]
                    + ["-keyout", directory.path("\(name).key")] + extra
            )
            let request = try CertificateRequest(pem: Array(output.standardOutput.utf8))
            #expect(try request.requestedID() == (name == "named" ? id : nil))
            let issued = try makeCAOnce().issue(request, id: id)
            #expect(try issued.chain[0].spiffeID() == id)
            // Nothing of the request but its key is taken over.
            #expect(issued.chain[0].subject.isEmpty)
        }
    }

    private func makeCAOnce() throws -> EmbeddedCA {
        try EmbeddedCA(trustDomain: domain, now: WallClock.system.seconds)
    }

    // MARK: What it refuses

    @Test func anotherTrustDomainIsRefused() throws {
        let foreign = try SPIFFEID("spiffe://other.example/ns/prod/sa/db")
        let request = try CertificateRequest.create(key: PrivateKey.generate(), id: foreign)
        let error = #expect(throws: IdentityError.self) { try makeCAOnce().issue(request, id: foreign) }
        #expect(error?.code == .refused)
        #expect(throws: IdentityError.self) { try makeCAOnce().issue(request, id: domain.id) }
    }

    @Test func aRequestForAnotherIdentityIsRefused() throws {
        let admin = try SPIFFEID("spiffe://mesh.example/ns/prod/sa/admin")
        let request = try CertificateRequest.create(key: PrivateKey.generate(), id: admin)
        let error = #expect(throws: IdentityError.self) { try makeCAOnce().issue(request, id: id) }
        #expect(error?.code == .refused)
        #expect(error?.message.contains("asks for \(admin), but \(id)") == true)
    }

    @Test(arguments: [
        "subjectAltName=URI:spiffe://mesh.example/a,URI:spiffe://mesh.example/b", "subjectAltName=URI:https://x",
    ])
    func aRequestWithNoProperNameIsRefused(_ names: String) async throws {
        let output = try await openssl(
            "req",
            "-new",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            "/",
            "-keyout",
            directory.path("key"),
            "-addext",
            names
        )
        let request = try CertificateRequest(pem: Array(output.standardOutput.utf8))
        let error = #expect(throws: IdentityError.self) { try makeCAOnce().issue(request, id: id) }
        #expect(error?.code == .invalidRequest)
    }

    @Test func aRequestThatSomebodyElseSignedIsRefused() async throws {
        // The victim's public key under the attacker's signature.
        let script = """
            import sys
            from cryptography import x509
            from cryptography.hazmat.primitives import hashes, serialization
            from cryptography.hazmat.primitives.asymmetric import ec
            key = ec.generate_private_key(ec.SECP256R1())
            request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
            der = bytearray(request.public_bytes(serialization.Encoding.DER))
            der[-3] ^= 1
            import base64
            print("-----BEGIN CERTIFICATE REQUEST-----\\n" + base64.encodebytes(bytes(der)).decode()
                  + "-----END CERTIFICATE REQUEST-----")
            """
        let output = try await ChildProcess.run(TestTools.python, ["-c", script])
        let request = try CertificateRequest(pem: Array(output.standardOutput.utf8))
        let error = #expect(throws: IdentityError.self) { try makeCAOnce().issue(request, id: id) }
        #expect(error?.code == .invalidRequest)
        #expect(error?.message.contains("signature") == true)
    }

    @Test(arguments: [["rsa:1024"], ["ec", "-pkeyopt", "ec_paramgen_curve:secp256k1"]])
    func aWeakKeyIsRefused(_ key: [String]) async throws {
        let output = try await ChildProcess.run(
            "openssl",
            ["req", "-new", "-nodes", "-subj", "/", "-keyout", directory.path("key"), "-newkey"] + key
        )
        let request = try CertificateRequest(pem: Array(output.standardOutput.utf8))
        let error = #expect(throws: IdentityError.self) { try makeCAOnce().issue(request, id: id) }
        #expect(error?.code == .invalidRequest)
        #expect(error?.message.contains("public key") == true)
    }

    @Test func whatIsNoRequestIsSaidSo() throws {
        let certificate = try TestCertificates.shared.ca("root").pem
        let request = try CertificateRequest.create(key: PrivateKey.generate(), id: id).pem
        let inputs = [
            [], Array("hello".utf8), certificate, Array(request.dropLast(80)), [UInt8](repeating: 65, count: 100_000),
        ]
        for input in inputs {
            let error = #expect(throws: IdentityError.self) { try CertificateRequest(pem: input) }
            #expect(error?.code == .invalidRequest)
        }
    }

    @Test func lifetimesEndWithTheCA() throws {
        let now = WallClock.system.seconds
        let ca = try EmbeddedCA(trustDomain: domain, lifetime: .seconds(3600), now: now)
        let request = try CertificateRequest.create(key: PrivateKey.generate(), id: id)
        for seconds in [3601, 86400, Int64.max, 0, -1] {
            let error = #expect(throws: IdentityError.self) {
                try ca.issue(request, id: id, options: IssuanceOptions(lifetime: .seconds(seconds)), now: now)
            }
            #expect(error?.code == .refused)
        }
        let issued = try ca.issue(request, id: id, options: IssuanceOptions(lifetime: .seconds(3600)), now: now)
        #expect(issued.chain[0].notAfter == ca.certificate.notAfter)
        #expect(issued.chain[0].notBefore == now - 120)
    }

    /// For a device whose clock is behind; but no certificate is older than its CA's, which OpenSSL on the device would
    /// not take.
    @Test func notBeforeGoesBackAsFarAsTheCAs() throws {
        let now = WallClock.system.seconds
        let ca = try EmbeddedCA(trustDomain: domain, now: now)
        #expect(ca.certificate.notBefore == now - 365 * 86_400 && EmbeddedCA.madeAt(ca.certificate) == now)
        let request = try CertificateRequest.create(key: PrivateKey.generate(), id: id)
        func issue(_ backdating: Int64, from time: Int64) throws -> IssuedCertificate {
            try ca.issue(request, id: id, options: IssuanceOptions(backdating: .seconds(backdating)), now: time)
        }
        for backdating in [0, 120, 21_660, 365 * 86_400] as [Int64] {
            let leaf = try issue(backdating, from: now).chain[0]
            #expect(leaf.notBefore == now - backdating && leaf.notAfter == now + 86_400)
        }
        #expect(ca.optionsForAnyClock(now: now).backdating == .seconds(21_660))
        #expect(ca.optionsForAnyClock(now: ca.certificate.notBefore + 3600).backdating == .seconds(3600))
        #expect(ca.optionsForAnyClock(now: ca.certificate.notBefore).backdating == .seconds(120))
        for backdating in [365 * 86_400 + 1, Int64.max, -1] as [Int64] {
            let error = #expect(throws: IdentityError.self) { try issue(backdating, from: now) }
            #expect(error?.code == .refused)
        }
    }

    static let badNames: [(dns: [String], ip: [String])] = [
        (["a b"], []), ([""], []), (["a..b"], []), (["-a"], []), (["a,URI:spiffe://mesh.example/x"], []), (["*"], []),
        (["a.*.b"], []), (["ä.example"], []), ([String(repeating: "a", count: 64)], []), ([], ["10.0.0"]), ([], ["db"]),
        ([], ["10.0.0.1/8"]), ([], [""]),
    ]

    @Test(arguments: badNames)
    func namesAreChecked(_ names: (dns: [String], ip: [String])) throws {
        let request = try CertificateRequest.create(key: PrivateKey.generate(), id: id)
        let options = IssuanceOptions(dnsNames: names.dns, ipAddresses: names.ip)
        let error = #expect(throws: IdentityError.self) { try makeCAOnce().issue(request, id: id, options: options) }
        #expect(error?.code == .refused)
    }

    // MARK: Its directory

    @Test func itLoadsAsItWasMade() throws {
        let made = try makeCA()
        let loaded = try EmbeddedCA.load(directory: directory.path("ca"))
        #expect(loaded.trustDomain == domain)
        #expect(loaded.certificate == made.certificate)
        #expect(try EmbeddedCA.bundle(directory: directory.path("ca")).roots == [made.certificate])
        let request = try CertificateRequest.create(key: PrivateKey.generate(), id: id)
        let issued = try loaded.issue(request, id: id)
        #expect(try TrustBundle(trustDomain: domain, roots: made.roots).verify(leaf: issued.chain[0]) == id)
        #expect(try permissions("ca") == 0o700)
        #expect(try permissions("ca/ca-key.pem") == 0o600)
    }

    @Test func anOldRootStaysInTheBundle() throws {
        let made = try makeCA()
        let old = try EmbeddedCA(trustDomain: domain, now: WallClock.system.seconds).certificate
        try directory.write("ca/root-cert.pem", made.certificate.pem + old.pem)
        let request = try CertificateRequest.create(key: PrivateKey.generate(), id: id)
        let issued = try EmbeddedCA.load(directory: directory.path("ca")).issue(request, id: id)
        #expect(issued.roots == [made.certificate, old])
    }

    @Test(arguments: ["", "-----BEGIN CERTIFICATE-----\nMIIB\n"]) func damagedRootsAreNamed(text: String) throws {
        _ = try makeCA()
        let file = try directory.write("ca/root-cert.pem", text)
        let error = #expect(throws: IdentityError.self) { try EmbeddedCA.load(directory: directory.path("ca")) }
        #expect(error?.message.hasPrefix("\(file): ") == true, "\(error?.message ?? "")")
    }

    @Test func itIsNeverOverwritten() throws {
        let made = try makeCA()
        let before = try directory.read("ca/ca-key.pem")
        let error = #expect(throws: IdentityError.self) { try makeCA() }
        #expect(error?.code == .alreadyExists)
        #expect(try directory.read("ca/ca-key.pem") == before)
        #expect(try EmbeddedCA.load(directory: directory.path("ca")).certificate == made.certificate)
        // Nothing is left of the attempt.
        #expect(try entries("") == ["ca"])
        try directory.write("file", "")
        #expect(throws: IdentityError.self) {
            try EmbeddedCA.create(directory: directory.path("file"), trustDomain: domain)
        }
        // An empty directory is as good as none.
        try directory.makeDirectory("empty")
        #expect(try EmbeddedCA.create(directory: directory.path("empty"), trustDomain: domain).trustDomain == domain)
    }

    @Test func itsKeyCanBeEncrypted() throws {
        let path = directory.path("ca")
        _ = try EmbeddedCA.create(directory: path, trustDomain: domain, passphrase: Passphrase("open sesame"))
        #expect(try directory.read("ca/ca-key.pem").contains("ENCRYPTED"))
        #expect(throws: Never.self) { try EmbeddedCA.load(directory: path, passphrase: Passphrase("open sesame")) }
        let missing = #expect(throws: IdentityError.self) { try EmbeddedCA.load(directory: path) }
        #expect(missing?.code == .passphraseRequired)
        let wrong = #expect(throws: IdentityError.self) {
            try EmbeddedCA.load(directory: path, passphrase: Passphrase("x"))
        }
        #expect(wrong?.code == .wrongPassphrase)
        // The bundle needs no key.
        #expect(throws: Never.self) { try EmbeddedCA.bundle(directory: path) }
    }

    @Test func aDamagedDirectoryIsRefused() throws {
        let absent = #expect(throws: IdentityError.self) { try EmbeddedCA.load(directory: directory.path("none")) }
        #expect(absent?.code == .notFound)
        #expect(absent?.message.contains("bootstrap ca init") == true)
        _ = try makeCA()
        let path = directory.path("ca")
        try directory.write("ca/ca-key.pem", try PrivateKey.generate().pem(), permissions: 0o600)
        let swapped = #expect(throws: IdentityError.self) { try EmbeddedCA.load(directory: path) }
        #expect(swapped?.code == .keyMismatch)
        chmod(directory.path("ca/ca-key.pem"), 0o640)
        let open = #expect(throws: IdentityError.self) { try EmbeddedCA.load(directory: path) }
        #expect(open?.code == .permissions)
        #expect(open?.message.contains("chmod 600") == true)
        try directory.write("ca/ca-cert.pem", try TestCertificates.shared.chain(.client)[0].pem)
        #expect(throws: IdentityError.self) { try EmbeddedCA.load(directory: path) }
    }

    private func permissions(_ name: String) throws -> UInt32 {
        var status = stat()
        try #require(stat(directory.path(name), &status) == 0)
        return status.st_mode & 0o777
    }

    private func entries(_ name: String) throws -> [String] {
        try FileManager.default.contentsOfDirectory(atPath: directory.path(name))
    }
}

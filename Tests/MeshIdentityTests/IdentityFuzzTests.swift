import MeshIdentity
import TestPeers
import Testing

/// What a stranger's certificate may contain.
@Suite struct IdentityFuzzTests {
    @Test("a SPIFFE ID that parses is printed as it came")
    func spiffeIDs() {
        var fuzzer = Fuzzer("SPIFFE ID")
        let corpus = [
            "spiffe://mesh.example/ns/prod/sa/client", "spiffe://td/a", "spiffe://a-b_c.example/x/..y/z", "spiffe://td",
            "spiffe://td/ns/%41/sa/b", "spiffe://user@td:80/a?b#c",
        ].map { Array($0.utf8) }
        let dictionary = ["/", "//", "/./", "/../", "%2f", "?", "#", "@", ":", "\u{0}", "é", "A"].map { Array($0.utf8) }
        var count = 0
        var parsed = 0
        while fuzzer.goesOn(count, of: 50_000) {
            count += 1
            let bytes = fuzzer.mutate(corpus, dictionary: dictionary)
            let text = String(decoding: bytes, as: UTF8.self)
            guard let id = try? SPIFFEID(text) else { continue }
            parsed += 1
            if id.description != text { Issue.record("\(text.debugDescription) is \(id)") }
            let segments = id.path.split(separator: "/", omittingEmptySubsequences: false).dropFirst()
            if segments.contains(where: { $0.isEmpty || $0 == "." || $0 == ".." }) {
                Issue.record("\(id) has a relative path")
            }
        }
        #expect(parsed > count / 100)
    }

    @Test("a changed certificate is refused, or names the identity that its issuer signed")
    func certificates() throws {
        var fuzzer = Fuzzer("X.509-SVID")
        let bundle = try TestCertificates.shared.bundle()
        let kinds: [TestCertificates.Kind] = [.client, .withNames, .twoSANs, .intermediate, .weakKey]
        let chains = try kinds.map { try TestCertificates.shared.chain($0) }
        let corpus = chains.map { $0[0].der }
        let intermediates = chains.flatMap { $0.dropFirst() }
        let signed = try chains[0][0].spiffeID()
        // DER's tags and lengths, and the object identifier of subjectAltName.
        let dictionary: [[UInt8]] = [
            [0x30, 0x80], [0x30, 0x84, 0xff, 0xff, 0xff, 0xff], [0x86, 0x00], [0x55, 0x1d, 0x11], [0x04, 0x00],
        ]
        var count = 0
        var parsed = 0
        while fuzzer.goesOn(count, of: 20_000) {
            count += 1
            let der = fuzzer.mutate(corpus, dictionary: dictionary)
            guard let certificate = try? Certificate(der: der) else { continue }
            parsed += 1
            _ = (certificate.dnsNames, certificate.ipAddresses, certificate.notBefore, certificate.notAfter)
            _ = (certificate.subject, certificate.issuer, certificate.serialNumber, certificate.isCA)
            _ = try? certificate.spiffeID()
            if let id = try? bundle.verify(leaf: certificate, intermediates: intermediates), id != signed {
                Issue.record("input \(count): \(id) was never signed")
            }
        }
        #expect(parsed > count / 100)
    }

    @Test("a changed PEM bundle is refused or read")
    func bundles() throws {
        var fuzzer = Fuzzer("PEM")
        let corpus = [
            try TestCertificates.shared.bundle().pem, try TestCertificates.shared.chain(.intermediate).flatMap(\.pem),
        ]
        let dictionary = ["-----BEGIN CERTIFICATE-----\n", "-----END CERTIFICATE-----\n", "\n", "="].map {
            Array($0.utf8)
        }
        var count = 0
        while fuzzer.goesOn(count, of: 5000) {
            count += 1
            for certificate in (try? Certificate.all(pem: fuzzer.mutate(corpus, dictionary: dictionary))) ?? [] {
                _ = certificate.subject
            }
        }
    }
}

import Foundation
import MeshIdentity
import TestPeers
import Testing

/// Bundles of other trust domains, as files have them, and what they vouch for.
@Suite struct TrustBundleFileTests {
    private static var partner: TrustDomain {
        get throws { try TrustDomain("partner.example") }
    }

    private static func key(_ certificate: Certificate, use: String = "x509-svid") -> String {
        let data = Data(certificate.der).base64EncodedString()
        return
            "{\"kty\": \"EC\", \"crv\": \"P-256\", \"use\": \"\(use)\", \"x\": \"AA\", \"y\": \"AA\", \"x5c\": [\"\(data)\"]}"
    }

    private static func parse(_ text: String) throws -> TrustBundleFile {
        try TrustBundleFile(parsing: Array(text.utf8), of: partner)
    }

    @Test func bothFormsAreRead() throws {
        let certificates = TestCertificates.shared
        let partner = try Self.partner
        let (one, two) = (try certificates.ca("partner"), try certificates.ca("nextPartner"))
        let pem = try TrustBundleFile(parsing: one.pem + two.pem + one.pem, of: partner)
        #expect(pem.bundle.roots == [one, two] && pem.bundle.trustDomain == partner)
        #expect(pem.sequence == nil && pem.refreshHint == nil)

        let json = try Self.parse(
            """
             {"spiffe_sequence": 7, "spiffe_refresh_hint": 300, "keys": [
              \(Self.key(two)), \(Self.key(one)),
              {"kty": "EC", "use": "jwt-svid", "kid": "a", "crv": "P-256", "x": "AA", "y": "AA"},
              {"kty": "of the future", "use": "something-else"}, {"kty": "RSA"}]}
            """
        )
        #expect(json.bundle.roots == [two, one] && json.sequence == 7 && json.refreshHint == 300)
    }

    @Test func whatIsNoBundleIsRefused() throws {
        let certificates = TestCertificates.shared
        let partner = try certificates.ca("partner")
        let key = Self.key(partner)
        let encoded = Data(partner.der).base64EncodedString()
        let cases = [
            ("", "there is no certificate in PEM form"), ("{", "it is not JSON that has one meaning"),
            ("[]", "there is no certificate in PEM form"),
            ("{\"keys\": 1}", "it is no SPIFFE bundle"), ("{\"keys\": []}", "it has no key with 'use: x509-svid'"),
            ("{\"keys\": [\(Self.key(partner, use: "jwt-svid"))]}", "it has no key with 'use: x509-svid'"),
            ("{\"keys\": [\(key)], \"keys\": []}", "it is not JSON that has one meaning"),
            ("{\"keys\": [\(key.replacingOccurrences(of: encoded, with: "!"))]}", "key 1: its 'x5c' is not"),
            ("{\"keys\": [\(key.replacingOccurrences(of: encoded, with: "AAAA"))]}", "key 1: this is no certificate"),
            (
                "{\"keys\": [\(key.replacingOccurrences(of: "\"\(encoded)\"", with: "\"\(encoded)\", \"\(encoded)\""))]}",
                "key 1: its 'x5c' is not"
            ),
            ("{\"keys\": [{\"use\": \"x509-svid\"}]}", "key 1: its 'x5c' is not"),
            ("{\"keys\": [\(key)], \"spiffe_sequence\": -1}", "its 'spiffe_sequence' is no whole number"),
            ("{\"keys\": [\(key)], \"spiffe_refresh_hint\": 1.5}", "its 'spiffe_refresh_hint' is no whole number"),
            (String(repeating: " ", count: (1 << 20) + 1), "it has more than 1024 KiB"),
            (
                "{\"keys\": [\(Array(repeating: key, count: 65).joined(separator: ","))]}",
                "it has 65 roots; 64 are allowed"
            ),
            // A member is no authority.
            (
                String(decoding: try certificates.chain(.client)[0].pem, as: UTF8.self),
                "the certificate \"\" is no CA certificate"
            ),
            // The root of another trust domain, which says so.
            (
                String(decoding: try certificates.ca("root").pem, as: UTF8.self),
                "the root certificate \"O=mesh\" is bound to the trust domain mesh.example"
            ),
        ]
        for (text, message) in cases {
            let error = #expect(throws: IdentityError.self) { try Self.parse(text) }
            #expect(error?.message.hasPrefix(message) == true, "\(text.prefix(60)): \(error as Any)")
        }
    }

    @Test func filesAreReadWithBounds() throws {
        let directory = TemporaryDirectory()
        let large = try directory.write("large", String(repeating: "a", count: (1 << 20) + 1))
        mkfifo(directory.path("pipe"), 0o600)
        let cases = [
            (large, "\(large): it has more than 1024 KiB"),
            (directory.path("none"), "\(directory.path("none")): there is no such file"),
            (directory.path("pipe"), "\(directory.path("pipe")): it is not a regular file"),
            (directory.path, "\(directory.path): Is a directory"),
        ]
        for (path, message) in cases {
            let error = #expect(throws: IdentityError.self) { try TrustBundleFile(loading: path, of: Self.partner) }
            #expect(error?.message == message)
        }
    }

    /// Whoever can change it says who is trusted.
    @Test func oneThatOthersCanChangeIsRefused() throws {
        let directory = TemporaryDirectory()
        let pem = try TestCertificates.shared.ca("partner").pem
        let path = try directory.write("partner.pem", pem, permissions: 0o664)
        let open = #expect(throws: IdentityError.self) { try TrustBundleFile(loading: path, of: Self.partner) }
        #expect(open?.code == .permissions && open?.message.contains("chmod go-w \(path)") == true)
        chmod(path, 0o644)
        #expect(throws: Never.self) { try TrustBundleFile(loading: path, of: Self.partner) }
    }

    /// Whoever is trusted for one domain can say nothing of the other, although no certificate of a CA says which one
    /// it is for.
    @Test func noRootVouchesForAnotherDomain() throws {
        let certificates = TestCertificates.shared
        let foreign = try TrustBundleFile(loading: certificates.caPath("partner"), of: Self.partner).bundle
        var trust = TrustBundleSet(try certificates.bundle())
        trust.insert(foreign)
        func verify(_ id: String, by issuer: String) throws -> SPIFFEID {
            let path = try certificates.makeLeaf(id: id, issuer: issuer)
            let chain = try TestCertificates.credential(at: path).chain
            return try trust.verify(leaf: chain[0], intermediates: Array(chain.dropFirst()))
        }
        let (ours, theirs) = ("spiffe://mesh.example/ns/prod/sa/client", "spiffe://partner.example/ns/prod/sa/client")
        #expect(try verify(ours, by: "root").description == ours)
        #expect(try verify(theirs, by: "partner").description == theirs)
        for (id, issuer) in [(ours, "partner"), (theirs, "root"), (theirs, "nextPartner"), (theirs, "other")] {
            let error = #expect(throws: SVIDError.self) { try verify(id, by: issuer) }
            #expect(error?.code == .untrusted, "\(id) by \(issuer): \(error as Any)")
        }
        let error = #expect(throws: SVIDError.self) { try verify("spiffe://third.example/ns/a/sa/b", by: "partner") }
        #expect(error?.code == .unknownTrustDomain)
    }

    /// What was accepted is judged again by what is trusted now.
    @Test func aDomainThatIsGoneTakesItsMembersAlong() throws {
        let certificates = TestCertificates.shared
        let path = try certificates.makeLeaf(id: "spiffe://partner.example/ns/prod/sa/app", issuer: "partner")
        let leaf = try TestCertificates.credential(at: path).chain[0]
        let id = try leaf.spiffeID()
        let without = TrustBundleSet(try certificates.bundle())
        var with = without
        with.insert(try TrustBundleFile(loading: certificates.caPath("partner"), of: Self.partner).bundle)
        #expect(with.objection(to: leaf.name, of: id) == nil)
        #expect(without.objection(to: leaf.name, of: id)?.contains("partner.example, of spiffe://") == true)
        #expect(with.hasSameObjections(as: with) && !with.hasSameObjections(as: without))
    }

    /// What an issuer answers to a renewal is held to the node's own roots, whoever else is trusted.
    @Test func aPartnersCertificateForOurNameIsNoCredential() throws {
        let certificates = TestCertificates.shared
        let path = try certificates.makeLeaf(id: "spiffe://mesh.example/ns/prod/sa/client", issuer: "partner")
        let made = try TestCertificates.credential(at: path)
        let error = #expect(throws: IdentityError.self) {
            try Credential(key: made.key, chain: made.chain, roots: certificates.bundle().roots)
        }
        #expect(error?.message.contains("is not signed by a root of mesh.example") == true, "\(error as Any)")
        // Nor can it bring its root along.
        let succession = #expect(throws: IdentityError.self) {
            try certificates.bundle().check(
                successors: [certificates.ca("root"), certificates.ca("partner")],
                vouchers: []
            )
        }
        #expect(succession?.code == .refused)
    }
}

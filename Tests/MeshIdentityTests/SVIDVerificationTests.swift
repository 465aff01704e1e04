import MeshIdentity
import Platform
import TestPeers
import Testing

/// Certificates made by Python, verified by us.
@Suite struct SVIDVerification {
    typealias Kind = TestCertificates.Kind

    private func verify(_ kind: Kind, with bundle: TrustBundle? = nil, at now: Int64? = nil) throws -> SPIFFEID {
        let chain = try TestCertificates.shared.chain(kind)
        let bundle = try bundle ?? TestCertificates.shared.bundle()
        return try bundle.verify(leaf: chain[0], intermediates: Array(chain.dropFirst()), at: now)
    }

    static let good: [(Kind, String)] = [
        (.client, "spiffe://mesh.example/ns/prod/sa/client"), (.server, "spiffe://mesh.example/ns/prod/sa/server"),
        (.intruder, "spiffe://mesh.example/ns/intruder/sa/client"),
        (.intermediate, "spiffe://mesh.example/ns/prod/sa/client"),
        (.withNames, "spiffe://mesh.example/ns/prod/sa/client"),
    ]

    @Test(arguments: good)
    func goodCertificatesGiveTheirID(_ kind: Kind, _ id: String) throws {
        #expect(try verify(kind).description == id)
    }

    static let refusals: [(Kind, SVIDError.Code, String)] = [
        (
            .foreign, .unknownTrustDomain,
            "other.example, which is not trusted here; only mesh.example"
        ),
        (.rogue, .untrusted, "the issuer \"O=mesh\" is unknown or not trusted"),
        (.crossSigned, .untrusted, "spiffe://mesh.example/ns/prod/sa/client"),
        (.expired, .expired, "expired 3 h"),
        (.notYetValid, .notYetValid, "in 5 h"),
        (.noSAN, .noURIName, "no URI name"),
        (.twoSANs, .multipleURINames, "2 URI names"),
        (.otherURI, .multipleURINames, "2 URI names"),
        (.isCA, .isCA, "CA:TRUE"),
        (.noKeyUsage, .keyUsage, "no key usage"),
        (.keyUsageNotCritical, .keyUsage, "not critical"),
        (.keyUsageWithoutSignature, .keyUsage, "lacks digitalSignature"),
        (.keyUsageCertSign, .keyUsage, "allows signing certificates"),
        (.noExtendedKeyUsage, .extendedKeyUsage, "no extended key usage"),
        (.noClientAuth, .extendedKeyUsage, "lacks clientAuth"),
        (.noServerAuth, .extendedKeyUsage, "lacks serverAuth"),
        (.noPath, .noPath, "names a trust domain, not a workload"),
        (.invalidID, .invalidID, "upper-case letter 'M'"),
        (.weakKey, .weakKey, "RSA with 1024 bits"),
        (.missingIntermediate, .untrusted, "\"O=intermediate\" is unknown or not trusted"),
        (.foreignIntermediate, .untrusted, "signed by a CA that is bound to the trust domain other.example"),
        (.clientsIntermediate, .untrusted, "may not vouch for servers"),
        (.serversIntermediate, .untrusted, "cannot be verified"),
        (.nextRoot, .untrusted, "spiffe://mesh.example/ns/prod/sa/client"),
        (.signedByLeaf, .untrusted, "spiffe://mesh.example/ns/prod/sa/client"),
    ]

    @Test(arguments: refusals)
    func eachRuleRefuses(_ kind: Kind, _ code: SVIDError.Code, _ reason: String) throws {
        let error = #expect(throws: SVIDError.self) { try verify(kind) }
        #expect(error?.code == code, "\(error?.message ?? "accepted")")
        #expect(error?.message.contains(reason) == true, "\(error?.message ?? "accepted")")
    }

    @Test func aLeafCannotSignEvenIfItIsSentAlong() throws {
        let chain = try TestCertificates.shared.chain(.signedByLeaf) + TestCertificates.shared.chain(.server)
        let bundle = try TestCertificates.shared.bundle()
        let error = #expect(throws: SVIDError.self) { try bundle.verify(leaf: chain[0], intermediates: [chain[1]]) }
        #expect(error?.code == .untrusted)
    }

    @Test func aSelfMadeRootThatIsSentAlongIsNotTrusted() throws {
        let leaf = try TestCertificates.shared.chain(.rogue)[0]
        let rogue = try TestCertificates.shared.ca("rogue")
        let bundle = try TestCertificates.shared.bundle()
        let error = #expect(throws: SVIDError.self) { try bundle.verify(leaf: leaf, intermediates: [rogue]) }
        #expect(error?.code == .untrusted)
    }

    @Test func bothRootsVouchWhileTheyOverlap() throws {
        let certificates = TestCertificates.shared
        let (old, new) = (try certificates.ca("root"), try certificates.ca("nextRoot"))
        let domain = try TrustDomain("mesh.example")
        let both = try TrustBundle(trustDomain: domain, roots: [old, new, old])
        #expect(both.roots == [old, new])
        for kind in [Kind.client, .nextRoot] { #expect(try verify(kind, with: both).serviceAccount == "client") }
        let onlyNew = try TrustBundle(trustDomain: domain, roots: [new])
        #expect(throws: SVIDError.self) { try verify(.client, with: onlyNew) }
        #expect(try verify(.nextRoot, with: onlyNew).serviceAccount == "client")
    }

    @Test func theTrustDomainOfThePeerChoosesTheBundle() throws {
        let certificates = TestCertificates.shared
        let other = try TrustBundle(trustDomain: TrustDomain("other.example"), roots: [certificates.ca("other")])
        let set = try TrustBundleSet(certificates.bundle(), other)
        for kind in [Kind.client, .foreign] {
            #expect(try set.verify(leaf: certificates.chain(kind)[0]) == certificates.chain(kind)[0].spiffeID())
        }
        // other.example's CA is trusted, but only for its own domain.
        let error = #expect(throws: SVIDError.self) { try set.verify(leaf: certificates.chain(.crossSigned)[0]) }
        #expect(error?.code == .untrusted)
        let onlyOther = TrustBundleSet(other)
        let unknown = #expect(throws: SVIDError.self) { try onlyOther.verify(leaf: certificates.chain(.client)[0]) }
        #expect(unknown?.code == .unknownTrustDomain)
        #expect(throws: SVIDError.self) { try TrustBundleSet().verify(leaf: certificates.chain(.client)[0]) }
    }

    @Test func aRootOfAnotherDomainIsNoRootHere() throws {
        let (domain, foreign) = (try TrustDomain("mesh.example"), try TestCertificates.shared.ca("other"))
        let error = #expect(throws: IdentityError.self) { try TrustBundle(trustDomain: domain, roots: [foreign]) }
        #expect(error?.message.contains("bound to the trust domain other.example") == true)
        let leaf = try TestCertificates.shared.chain(.client)[0]
        #expect(throws: IdentityError.self) { try TrustBundle(trustDomain: domain, roots: [leaf]) }
        #expect(throws: IdentityError.self) { try TrustBundle(trustDomain: domain, roots: []) }
    }

    @Test func validityEndsToTheSecond() throws {
        let leaf = try TestCertificates.shared.chain(.client)[0]
        for now in [leaf.notBefore, leaf.notAfter - 1] {
            #expect(try verify(.client, at: now).serviceAccount == "client")
        }
        let early = #expect(throws: SVIDError.self) { try verify(.client, at: leaf.notBefore - 1) }
        #expect(early?.code == .notYetValid)
        let late = #expect(throws: SVIDError.self) { try verify(.client, at: leaf.notAfter + 1) }
        #expect(late?.code == .expired)
        #expect(late?.message.contains("expired 1 s ago") == true)
    }

    @Test func aCAThatExpiredIsNamed() throws {
        // A leaf that outlives its CA.
        let root = try TestCertificates.shared.ca("root")
        let path = try TestCertificates.shared.makeLeaf(id: "spiffe://mesh.example/ns/prod/sa/old") {
            $0.notAfter = 86400 * 5000
        }
        let leaf = try TestCertificates.credential(at: path).leaf
        let bundle = try TestCertificates.shared.bundle()
        let error = #expect(throws: SVIDError.self) { try bundle.verify(leaf: leaf, at: root.notAfter + 86400 * 2) }
        #expect(error?.code == .expired)
        #expect(error?.message.contains("the CA certificate \"O=mesh\" expired 2 d ago") == true)
    }

    @Test(arguments: [("secp256k1", false), ("P-384", true), ("RSA-2048", true), ("ED25519", true)])
    func keysAreOfAKindThatTLSKnows(_ type: String, _ isAccepted: Bool) throws {
        let path = try TestCertificates.shared.makeLeaf(id: "spiffe://mesh.example/ns/prod/sa/key") {
            $0.keyType = type
        }
        let leaf = try TestCertificates.shared.bundle()
        let chain = try Certificate.all(pem: AtomicFile.read("\(path)/cert-chain.pem"))
        if isAccepted {
            #expect(try leaf.verify(leaf: chain[0]).serviceAccount == "key")
        } else {
            let error = #expect(throws: SVIDError.self) { try leaf.verify(leaf: chain[0]) }
            #expect(error?.code == .weakKey)
        }
    }

    @Test func certificatesReadAsPythonWroteThem() throws {
        let leaf = try TestCertificates.shared.chain(.withNames)[0]
        #expect(leaf.dnsNames == ["web.example.org"])
        #expect(leaf.ipAddresses == ["127.0.0.1", "::1"])
        #expect(leaf.subject.isEmpty)
        #expect(leaf.issuer == "O=mesh")
        #expect(!leaf.isCA)
        #expect(leaf.notAfter - leaf.notBefore == 86400 + 120)
        #expect(try Certificate(der: leaf.der) == leaf)
        #expect(try Certificate(pem: leaf.pem).fingerprint == leaf.fingerprint)
        #expect(leaf.fingerprint.count == 64)
        #expect(try TestCertificates.shared.ca("root").isCA)
    }

    @Test func damagedCertificatesAreRefused() throws {
        let leaf = try TestCertificates.shared.chain(.client)[0]
        #expect(throws: IdentityError.self) { try Certificate(der: Array(leaf.der.dropLast())) }
        #expect(throws: IdentityError.self) { try Certificate(der: leaf.der + [0]) }
        #expect(throws: IdentityError.self) { try Certificate(der: []) }
        #expect(throws: IdentityError.self) { try Certificate.all(pem: []) }
        #expect(throws: IdentityError.self) { try Certificate.all(pem: Array("no certificate".utf8)) }
        // The second of two is cut in the middle: not one certificate, but an error.
        let error = #expect(throws: IdentityError.self) { try Certificate.all(pem: leaf.pem + leaf.pem.prefix(200)) }
        #expect(error?.message.contains("certificate 2") == true)
        #expect(throws: IdentityError.self) { try Certificate(pem: leaf.pem + leaf.pem) }
    }

    @Test func aChangedByteBreaksTheSignature() throws {
        var der = try TestCertificates.shared.chain(.client)[0].der
        // In the leaf's URI name: the server's identity with the client's key.
        let name = Array("/ns/prod/sa/client".utf8)
        let place = try #require(
            der.indices.dropLast(name.count).first { der[$0..<$0 + name.count].elementsEqual(name) }
        )
        der[place + name.count - 1] = UInt8(ascii: "x")
        let forged = try Certificate(der: der)
        #expect(try forged.spiffeID().serviceAccount == "clienx")
        let bundle = try TestCertificates.shared.bundle()
        let error = #expect(throws: SVIDError.self) { try bundle.verify(leaf: forged) }
        #expect(error?.code == .untrusted)
    }

    static let lengths: [(Int64, String)] = [
        (0, "0 s"), (59, "59 s"), (60, "1 min"), (61, "1 min 1 s"), (3600 * 3, "3 h"), (3600 * 3 + 5, "3 h"),
        (86400 + 3600, "1 d 1 h"), (86400 * 4000, "4000 d"), (-5, "0 s"),
    ]

    @Test(arguments: lengths)
    func timesAreSaidShortly(_ seconds: Int64, _ text: String) {
        #expect(describe(seconds: seconds) == text)
    }
}

import Foundation
import TestPeers
import Testing

@testable import MeshIdentity

/// A root that follows another is vouched for by it.
@Suite struct RootSuccessionTests {
    private let home = TemporaryDirectory()
    private var directory: String { home.path("ca") }
    private let id: SPIFFEID

    init() throws { id = try SPIFFEID("spiffe://mesh.example/ns/prod/sa/db") }

    private func issue(by ca: EmbeddedCA) throws -> IssuedCertificate {
        try ca.issue(CertificateRequest.create(key: PrivateKey.generate(), id: id), id: id)
    }

    @Test func aRotationBringsTheOldCAsWord() throws {
        let old = try EmbeddedCA.create(directory: directory, trustDomain: id.trustDomain)
        let present = try TrustBundle(trustDomain: id.trustDomain, roots: old.roots)
        #expect(try issue(by: old).vouchers.isEmpty)
        let rotation = RootRotation(directory: directory)
        let root = try rotation.begin(old, passphrase: nil)
        for step in ["the old key signs", "the new key signs"] {
            let issued = try issue(by: EmbeddedCA.load(directory: directory))
            #expect(Set(issued.roots) == [old.certificate, root])
            try present.check(successors: issued.roots, vouchers: issued.vouchers)
            let error = #expect(throws: IdentityError.self, "\(step)") {
                try present.check(successors: issued.roots, vouchers: [])
            }
            #expect(error?.code == .refused && error?.message.contains("bootstrap renew") == true)
            if step == "the old key signs" { try rotation.switchSigner() }
        }
        // Who has both needs no word any more.
        let both = try TrustBundle(trustDomain: id.trustDomain, roots: [old.certificate, root])
        try rotation.finish()
        try both.check(successors: issue(by: EmbeddedCA.load(directory: directory)).roots, vouchers: [])
    }

    /// Begun by a release that wrote none.
    @Test func aRotationThatWasBegunBefore() throws {
        let old = try EmbeddedCA.create(directory: directory, trustDomain: id.trustDomain)
        _ = try RootRotation(directory: directory).begin(old, passphrase: nil)
        try FileManager.default.removeItem(atPath: directory + "/vouchers.pem")
        let issued = try issue(by: EmbeddedCA.load(directory: directory))
        #expect(issued.vouchers.count == 1)
        try TrustBundle(trustDomain: id.trustDomain, roots: old.roots)
            .check(successors: issued.roots, vouchers: issued.vouchers)
    }

    @Test func nobodyElsesWordCounts() throws {
        let now = Int64(Date().timeIntervalSince1970)
        let ours = try EmbeddedCA(trustDomain: id.trustDomain, now: now)
        let stranger = try EmbeddedCA(trustDomain: id.trustDomain, now: now)
        let next = try EmbeddedCA(trustDomain: id.trustDomain, now: now)
        let bundle = try TrustBundle(trustDomain: id.trustDomain, roots: ours.roots)
        func check(_ vouchers: [Certificate], at time: Int64? = nil) throws(IdentityError) {
            try bundle.check(successors: ours.roots + next.roots, vouchers: vouchers, at: time)
        }
        try check([ours.vouch(for: next.certificate)])
        #expect(throws: IdentityError.self, "a stranger's") { try check([stranger.vouch(for: next.certificate)]) }
        #expect(throws: IdentityError.self, "its own") { try check([next.certificate]) }
        #expect(throws: IdentityError.self, "of another") { try check([ours.vouch(for: stranger.certificate)]) }
        #expect(throws: IdentityError.self, "that has ended") {
            try check([ours.vouch(for: next.certificate)], at: ours.certificate.notAfter)
        }
        // A leaf of ours that has the stranger's key is no CA.
        let request = try CertificateRequest.create(key: next.key, id: id)
        let leaf = try #require(try ours.issue(request, id: id).leaf)
        #expect(throws: IdentityError.self, "a leaf") { try check([leaf]) }
    }
}

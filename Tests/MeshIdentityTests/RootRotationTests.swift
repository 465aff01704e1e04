import Foundation
import TestPeers
import Testing

@testable import MeshIdentity

/// The files of a rotation, and what a step that was cut leaves.
@Suite struct RootRotationTests {
    private let home = TemporaryDirectory()
    private var directory: String { home.path("ca") }
    private var rotation: RootRotation { RootRotation(directory: directory) }

    private func makeCA(passphrase: Passphrase? = nil) throws -> EmbeddedCA {
        try EmbeddedCA.create(directory: directory, trustDomain: TrustDomain("mesh.example"), passphrase: passphrase)
    }

    @Test func oneStepAfterTheOther() throws {
        let old = try makeCA()
        #expect(rotation.phase == .steady)
        let root = try rotation.begin(old, passphrase: nil)
        #expect(rotation.phase == .distributing)
        var present = try EmbeddedCA.load(directory: directory)
        #expect(present.certificate == old.certificate)
        #expect(present.roots == [old.certificate, root])
        #expect(throws: IdentityError.self) { try rotation.begin(present, passphrase: nil) }

        try rotation.switchSigner()
        #expect(rotation.phase == .retiring)
        present = try EmbeddedCA.load(directory: directory)
        #expect(present.certificate == root)
        #expect(Set(present.roots) == [old.certificate, root])
        #expect(try present.previous(passphrase: nil)?.certificate == old.certificate)

        try rotation.finish()
        #expect(rotation.phase == .steady)
        present = try EmbeddedCA.load(directory: directory)
        #expect(present.roots == [root])
        #expect(try present.previous(passphrase: nil)?.certificate == nil)
        #expect(
            try FileManager.default.contentsOfDirectory(atPath: directory).sorted()
                == ["ca-cert.pem", "ca-key.pem", "directory-cert.pem", "directory-key.pem", "root-cert.pem"]
        )
    }

    /// Killed between the new key and its certificate: the CA opens, and the step is done again.
    @Test func aSwitchThatWasCutIsTakenUp() throws {
        let root = try rotation.begin(makeCA(), passphrase: nil)
        // What the first half of the step does.
        try home.makeDirectory("ca/previous", permissions: 0o700)
        for name in ["ca-key.pem", "ca-cert.pem"] {
            try home.write("ca/previous/\(name)", try home.read("ca/\(name)"), permissions: 0o600)
        }
        #expect(rename("\(directory)/next/ca-key.pem", "\(directory)/ca-key.pem") == 0)
        #expect(try EmbeddedCA.load(directory: directory).certificate == root)
        #expect(rotation.phase == .distributing)
        try rotation.switchSigner()
        #expect(rotation.phase == .retiring)
        #expect(try EmbeddedCA.load(directory: directory).certificate == root)
    }

    /// A process that has the old key open does not go on signing with it.
    @Test func aRunningIssuerNotices() throws {
        let running = try makeCA()
        let id = try SPIFFEID("spiffe://mesh.example/ns/prod/sa/db")
        let request = try CertificateRequest.create(key: PrivateKey.generate(), id: id)
        let root = try rotation.begin(running, passphrase: nil)
        #expect(try running.issue(request, id: id).roots.contains(root), "given out at once")
        #expect(try running.isPresent())
        try rotation.switchSigner()
        #expect(try running.isPresent() == false)
        #expect(try EmbeddedCA.load(directory: directory).isPresent())
        let error = #expect(throws: IdentityError.self) { try running.issue(request, id: id) }
        #expect(error?.message.contains("open it again") == true)
    }

    /// Killed before the new CA was in place: it begins anew.
    @Test func aBeginningThatWasCutIsForgotten() throws {
        let ca = try makeCA()
        _ = try EmbeddedCA.create(directory: "\(directory)/next.making", trustDomain: ca.trustDomain)
        #expect(rotation.phase == .steady)
        rotation.discardUnfinished()
        _ = try rotation.begin(ca, passphrase: nil)
        #expect(rotation.phase == .distributing)
    }

    /// Killed while the files of the new CA were being written: each of them may be a key.
    @Test func whatAKilledMakerLeavesGoesWithTheNextOne() throws {
        for name in [
            "ca/.next.making.5f3a0c11d2e4b687", "ca/.next.making.1a2b3c4d5e6f7", "copies/.ca.5f3a0c11d2e4b687",
        ] {
            try home.makeDirectory("\(name)", permissions: 0o700)
            for file in ["ca-key.pem", ".ca-cert.pem.77aa", "directory-key.pem"] {
                try home.write("\(name)/\(file)", "x")
            }
        }
        // Of somebody else.
        try home.makeDirectory("copies/.ca.2024", permissions: 0o700)
        try home.write("copies/.ca.2024/ca-key.pem", "x")
        try home.write("copies/.ca.0123456789abc/notes", "x")
        let kept = try EmbeddedCA.create(directory: home.path("copies/ca"), trustDomain: TrustDomain("mesh.example"))
        #expect(
            try FileManager.default.contentsOfDirectory(atPath: home.path("copies")).sorted()
                == [".ca.0123456789abc", ".ca.2024", "ca"]
        )
        #expect(try home.read("copies/.ca.2024/ca-key.pem") == "x")
        #expect(try home.read("copies/.ca.0123456789abc/notes") == "x")

        try FileManager.default.moveItem(atPath: home.path("copies/ca/ca-key.pem"), toPath: "\(directory)/ca-key.pem")
        try FileManager.default.moveItem(atPath: home.path("copies/ca/ca-cert.pem"), toPath: "\(directory)/ca-cert.pem")
        try FileManager.default.moveItem(
            atPath: home.path("copies/ca/root-cert.pem"),
            toPath: "\(directory)/root-cert.pem"
        )
        _ = try rotation.begin(EmbeddedCA.load(directory: directory), passphrase: nil)
        #expect(try !FileManager.default.contentsOfDirectory(atPath: directory).contains { $0.hasPrefix(".") })
        #expect(try EmbeddedCA.load(directory: directory).certificate == kept.certificate)
    }

    @Test func anEncryptedKeyIsReplacedByAnEncryptedOne() throws {
        let passphrase = Passphrase(Array("open sesame".utf8))
        _ = try rotation.begin(makeCA(passphrase: passphrase), passphrase: passphrase)
        try rotation.switchSigner()
        #expect(throws: IdentityError.self) { try EmbeddedCA.load(directory: directory) }
        let present = try EmbeddedCA.load(directory: directory, passphrase: passphrase)
        #expect(try present.previous(passphrase: passphrase) != nil)
    }
}

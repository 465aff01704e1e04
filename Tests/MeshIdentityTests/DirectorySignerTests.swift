import Foundation
import MeshIdentity
import Platform
import TestPeers
import Testing

/// The key of a mesh's directory, beside the CA's.
@Suite struct DirectorySignerTests {
    private let place = TemporaryDirectory()
    private var path: String { place.path("ca") }

    private func makeCA() throws -> EmbeddedCA {
        try EmbeddedCA.create(directory: path, trustDomain: TrustDomain("mesh.example"))
    }

    @Test func itComesWithTheCA() throws {
        let ca = try makeCA()
        let signer = try #require(try DirectorySigner.load(directory: path))
        #expect(try ca.directorySigner().certificate == signer.certificate)
        try EmbeddedCA.bundle(directory: path).verify(directoryKey: signer.certificate)
        let attributes = try FileManager.default.attributesOfItem(atPath: "\(path)/directory-key.pem")
        #expect(attributes[.posixPermissions] as? Int == 0o600)
        let signature = try signer.key.signature(of: Array("a".utf8))
        #expect(signer.certificate.verifies(signature, of: Array("a".utf8)))
        #expect(!signer.certificate.verifies(signature, of: Array("b".utf8)))
        #expect(!signer.certificate.verifies([], of: Array("a".utf8)))
    }

    @Test func aCAOfAnEarlierReleaseGetsOne() throws {
        let ca = try makeCA()
        for name in ["directory-key.pem", "directory-cert.pem"] {
            try FileManager.default.removeItem(atPath: "\(path)/\(name)")
        }
        #expect(try DirectorySigner.load(directory: path)?.certificate == nil)
        let made = try ca.directorySigner()
        #expect(try DirectorySigner.load(directory: path)?.certificate == made.certificate)
    }

    @Test func oneThatWasRevokedIsMadeAnew() throws {
        let ca = try makeCA()
        let before = try ca.directorySigner()
        let now = WallClock.system.seconds
        let list = try ca.revocationList(
            of: [RevokedCertificate(serial: before.certificate.serialNumber, revokedAt: now)],
            number: 1,
            nextUpdate: now + 3600
        )
        try AtomicFile.write(list.pem, to: "\(path)/ca-crl.pem")
        #expect(try DirectorySigner.load(directory: path)?.certificate == nil)
        let after = try ca.directorySigner()
        #expect(after.certificate != before.certificate)
        let bundle = try EmbeddedCA.directoryBundle(directory: path)
        try bundle.verify(directoryKey: after.certificate)
        #expect(throws: IdentityError.self) { try bundle.verify(directoryKey: before.certificate) }
    }

    @Test func othersMustNotReadIt() throws {
        _ = try makeCA()
        chmod("\(path)/directory-key.pem", 0o644)
        let error = #expect(throws: IdentityError.self) { try DirectorySigner.load(directory: path) }
        #expect(error?.code == .permissions)
    }

    /// When another key signs for the CA, the directory's key gets its word; until the old root is gone, both hold.
    @Test func itFollowsTheRoot() throws {
        let old = try makeCA()
        let before = try old.directorySigner()
        let rotation = RootRotation(directory: path)
        _ = try rotation.begin(old, passphrase: nil)
        #expect(try DirectorySigner.load(directory: path)?.certificate == before.certificate)
        try rotation.switchSigner()
        #expect(try DirectorySigner.load(directory: path)?.certificate == nil)
        let after = try EmbeddedCA.load(directory: path).directorySigner()
        #expect(after.certificate != before.certificate)
        let both = try EmbeddedCA.bundle(directory: path)
        try both.verify(directoryKey: before.certificate)
        try both.verify(directoryKey: after.certificate)
        try rotation.finish()
        let one = try EmbeddedCA.bundle(directory: path)
        try one.verify(directoryKey: after.certificate)
        #expect(throws: IdentityError.self) { try one.verify(directoryKey: before.certificate) }
    }
}

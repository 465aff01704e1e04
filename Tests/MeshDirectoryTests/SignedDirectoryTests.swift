import Platform
import TestPeers
import Testing

@testable import MeshDirectory
@testable import MeshIdentity

/// Nobody but the mesh's own key says what holds.
@Suite struct SignedDirectoryTests {
    private let domain: TrustDomain
    private let ca: EmbeddedCA
    private let bundle: TrustBundle
    private let content = Array("endpoints:\n- {match: \"db.prod:5432\", hbone: \"10.0.0.7:15008\"}\n".utf8)
    private let now = WallClock.system.seconds

    init() throws {
        domain = try TrustDomain("mesh.example")
        ca = try EmbeddedCA(trustDomain: domain, now: WallClock.system.seconds)
        bundle = try TrustBundle(trustDomain: domain, roots: ca.roots)
    }

    private func signed(_ revision: Int64 = 7, by signer: DirectorySigner? = nil) throws -> SignedDirectory {
        try SignedDirectory(
            content: content,
            domain: domain,
            revision: revision,
            signer: signer ?? ca.makeDirectorySigner()
        )
    }

    private func refusal(_ body: () throws -> Void) -> DirectoryError.Code? {
        do {
            try body()
            return nil
        } catch {
            return (error as? DirectoryError)?.code
        }
    }

    @Test func whatTheCAVouchesForIsTaken() throws {
        let document = try SignedDirectory(file: signed().file)
        try document.verify(with: bundle, after: nil)
        #expect(document.content == content)
        #expect(document.revision == 7)
        // A person reads it, and YAML takes the head for a comment.
        #expect(
            String(decoding: document.file, as: UTF8.self).hasPrefix(
                "# bootstrap mesh directory 1\n# domain: mesh.example\n"
            )
        )
    }

    @Test func whatWasChangedIsNot() throws {
        let file = try signed().file
        #expect(refusal { _ = try SignedDirectory(file: self.content) } == .unsigned)
        #expect(refusal { _ = try SignedDirectory(file: []) } == .unsigned)
        #expect(refusal { _ = try SignedDirectory(file: file + [10]) } == .unsigned)
        // Each byte of it: there is none that anybody could change.
        for place in file.indices {
            var changed = file
            changed[place] ^= 1
            let code = refusal {
                let document = try SignedDirectory(file: changed)
                try document.verify(with: bundle, after: nil, at: now)
            }
            #expect(code != nil, "byte \(place)")
        }
    }

    @Test func aRevisionThatWasRaisedIsNot() throws {
        let text = String(decoding: try signed().file, as: UTF8.self)
        let raised = text.replacing("# revision: 7\n", with: "# revision: 9\n")
        #expect(refusal { try SignedDirectory(file: Array(raised.utf8)).verify(with: bundle, after: nil) } == .unsigned)
    }

    @Test func anotherMeshIsForeign() throws {
        let other = try TrustDomain("other.example")
        let otherCA = try EmbeddedCA(trustDomain: other, now: now)
        let document = try SignedDirectory(
            content: content,
            domain: other,
            revision: 1,
            signer: otherCA.makeDirectorySigner()
        )
        #expect(refusal { try document.verify(with: bundle, after: nil) } == .foreign)
        // And one that claims to be of this one.
        let claimed = try SignedDirectory(
            content: content,
            domain: domain,
            revision: 1,
            signer: otherCA.makeDirectorySigner()
        )
        #expect(refusal { try claimed.verify(with: bundle, after: nil) } == .unsigned)
        // A CA of the same name is another CA.
        let namesake = try EmbeddedCA(trustDomain: domain, now: now)
        let third = try signed(by: namesake.makeDirectorySigner())
        #expect(refusal { try third.verify(with: bundle, after: nil) } == .unsigned)
    }

    @Test func aWorkloadSignsNothing() throws {
        let key = try PrivateKey.generate()
        let id = try SPIFFEID("spiffe://mesh.example/ns/prod/sa/db")
        let issued = try ca.issue(CertificateRequest.create(key: key, id: id), id: id)
        let workload = try signed(by: DirectorySigner(key: key, certificate: issued.chain[0]))
        #expect(refusal { try workload.verify(with: bundle, after: nil) } == .unsigned)
        // Nor the mesh's own services, whose certificates are for TLS.
        let reserved = try SPIFFEID(ReservedIdentity.directory(of: domain))
        var options = IssuanceOptions()
        options.allowsReservedIdentity = true
        let service = try ca.issue(CertificateRequest.create(key: key, id: reserved), id: reserved, options: options)
        let claimed = try signed(by: DirectorySigner(key: key, certificate: service.chain[0]))
        #expect(refusal { try claimed.verify(with: bundle, after: nil) } == .unsigned)
        // Nor the CA itself: its certificate is a CA's.
        let root = try signed(by: DirectorySigner(key: ca.key, certificate: ca.certificate))
        #expect(refusal { try root.verify(with: bundle, after: nil) } == .unsigned)
    }

    @Test func theDirectoryKeyIsNoWorkload() throws {
        let signer = try ca.makeDirectorySigner()
        #expect(throws: SVIDError.self) { try bundle.verify(leaf: signer.certificate) }
    }

    @Test func aKeyThatWasRevokedSignsNoMore() throws {
        let signer = try ca.makeDirectorySigner()
        let document = try signed(by: signer)
        let without = bundle.refusing([signer.certificate.name])
        #expect(refusal { try document.verify(with: without, after: nil) } == .unsigned)
    }

    @Test func itNeverGoesBackwards() throws {
        let signer = try ca.makeDirectorySigner()
        let (seven, eight) = (try signed(7, by: signer), try signed(8, by: signer))
        try eight.verify(with: bundle, after: seven.manifest)
        try seven.verify(with: bundle, after: seven.manifest)
        #expect(refusal { try seven.verify(with: bundle, after: eight.manifest) } == .backwards)
        let other = try SignedDirectory(content: [], domain: domain, revision: 8, signer: signer)
        #expect(refusal { try other.verify(with: bundle, after: eight.manifest) } == .backwards)
    }

    /// What was written last is known beside the CA, for each directory.
    @Test func whatWasWrittenLastIsRemembered() throws {
        let place = TemporaryDirectory()
        let settings = DirectorySettings(.file(place.path("mesh.yaml")))
        let memory = DirectoryMemory(of: settings, ca: place.path)
        #expect(try memory.last(of: domain) == nil)
        let document = try signed(7)
        try memory.remember(document.manifest)
        let again = DirectoryMemory(of: settings, ca: place.path)
        #expect(try again.last(of: domain) == document.manifest)
        #expect(try again.last(of: TrustDomain("other.example")) == nil)
        let other = DirectoryMemory(of: DirectorySettings(.file(place.path("other.yaml"))), ca: place.path)
        #expect(try other.last(of: domain) == nil)
    }

    @Test func noRevisionIsTheLastOne() throws {
        let text = String(decoding: try signed().file, as: UTF8.self)
        let raised = text.replacing("# revision: 7\n", with: "# revision: \(Int64.max)\n")
        #expect(refusal { _ = try SignedDirectory(file: Array(raised.utf8)) } == .damaged)
        let signer = try ca.makeDirectorySigner()
        #expect(refusal { _ = try signed(Int64.max, by: signer) } == .limit)
    }

    @Test func itsPiecesHaveToBeThere() throws {
        let document = try signed()
        let pieces = Dictionary(uniqueKeysWithValues: document.pieces.map { ($0.hash, $0.bytes) })
        #expect(try SignedDirectory(document.manifest, pieces: pieces) == document)
        #expect(refusal { _ = try SignedDirectory(document.manifest, pieces: [:]) } == .damaged)
    }

    @Test func aHeadThatClaimsTooMuchIsRefused() throws {
        let hash = String(repeating: "a", count: 64)
        let huge = "# bootstrap mesh directory 1\n# domain: mesh.example\n# revision: 1\n# time: 2026-01-01T00:00:00Z\n"
        #expect(
            refusal { _ = try DirectoryManifest(parsing: Array((huge + "# part: \(hash) 99999999999\n").utf8)) }
                == .limit
        )
        let many = huge + String(repeating: "# part: \(hash) 1\n", count: 5000)
        #expect(refusal { _ = try DirectoryManifest(parsing: Array(many.utf8)) } == .limit)
        #expect(refusal { _ = try DirectoryManifest(parsing: Array((huge + "# part: \(hash) -1\n").utf8)) } == .damaged)
        #expect(refusal { _ = try DirectoryManifest(parsing: Array((huge + "# part: \(hash) 01\n").utf8)) } == .damaged)
    }
}

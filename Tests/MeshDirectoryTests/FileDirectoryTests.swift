import MeshIdentity
import Platform
import TestPeers
import Testing

@testable import MeshDirectory

@Suite struct FileDirectoryTests {
    private let directory = TemporaryDirectory()
    private let signer: DirectorySigner
    private let domain: TrustDomain

    init() throws {
        domain = try TrustDomain("mesh.example")
        signer = try EmbeddedCA(trustDomain: domain, now: WallClock.system.seconds).makeDirectorySigner()
    }

    private func document(_ revision: Int64) throws -> SignedDirectory {
        let content = Array("endpoints:\n- {match: \"a:\(revision)\", direct: true}\n".utf8)
        return try SignedDirectory(content: content, domain: domain, revision: revision, signer: signer)
    }

    @Test func onlyWhatWasReadIsReplaced() throws {
        let file = FileDirectory("\(directory.path)/mesh.yaml")
        #expect(try file.read() == nil)
        let (one, two, three) = (try document(1), try document(2), try document(3))
        try file.write(one, replacing: .nothing)
        #expect(try file.read() == one)
        try file.write(two, replacing: .manifest(one.manifest))
        for previous in [DirectoryStore.Previous.nothing, .manifest(one.manifest)] {
            let error = #expect(throws: DirectoryError.self) { try file.write(three, replacing: previous) }
            #expect(error?.code == .conflict)
            #expect(error?.message.contains("revision 2 now") == true)
            #expect(try file.read() == two)
        }
        try file.write(three, replacing: .anything)
        #expect(try file.read() == three)
    }
}

import MeshIdentity
import Platform
import TestPeers
import Testing

@testable import MeshDirectory

@Suite struct DirectoryFuzzTests {
    /// Whatever stands in a file is a directory or an error, and never one that verifies and says something else.
    @Test func anyFile() throws {
        let domain = try TrustDomain("mesh.example")
        let ca = try EmbeddedCA(trustDomain: domain, now: WallClock.system.seconds)
        let bundle = try TrustBundle(trustDomain: domain, roots: ca.roots)
        let content = Array("endpoints:\n- {match: \"a:1\", direct: true}\n".utf8)
        let document = try SignedDirectory(
            content: content,
            domain: domain,
            revision: 5,
            signer: ca.makeDirectorySigner()
        )
        var fuzzer = Fuzzer("a directory's file")
        var done = 0
        while fuzzer.goesOn(done, of: 3000) {
            let input = fuzzer.mutate([document.file], dictionary: [Array("# part: ".utf8), Array("\n# ".utf8)])
            done += 1
            guard let other = try? SignedDirectory(file: input),
                (try? other.verify(with: bundle, after: nil)) != nil
            else { continue }
            #expect(other == document)
        }
    }
}

import MeshIdentity
import Platform
import Testing

@testable import MeshDirectory

/// Where the content of a directory is cut, and what of it need not be read again.
@Suite struct DirectoryOutlineTests {
    private let domain: TrustDomain
    private let signer: DirectorySigner

    init() throws {
        domain = try TrustDomain("mesh.example")
        signer = try EmbeddedCA(trustDomain: domain, now: WallClock.system.seconds).makeDirectorySigner()
    }

    private func devices(_ count: Int, but changed: Int? = nil) -> String {
        let lines = (0..<count).map { number in
            let name = number == changed ? "other" : "dev\(number)"
            return
                "- {name: \"\(name)\", identity: \"spiffe://mesh.example/ns/prod/sa/dev\(number)\", hbone: [\"10.0.0.7:1\"]}\n"
        }
        return "devices:  # from the ledger\n" + lines.joined()
    }

    private func document(_ text: String) throws -> SignedDirectory {
        try SignedDirectory(content: Array(text.utf8), domain: domain, revision: 1, signer: signer)
    }

    /// Cut where `^` stands.
    private func cut(_ text: String) throws -> SignedDirectory {
        var (parts, pieces): ([DirectoryManifest.Part], [String: [UInt8]]) = ([], [:])
        for piece in text.split(separator: "^") {
            let bytes = Array(piece.utf8)
            let hash = hexadecimal(Digest.sha256(bytes))
            pieces[hash] = bytes
            parts.append(DirectoryManifest.Part(hash: hash, length: bytes.count))
        }
        let manifest = try DirectoryManifest(domain: domain.name, revision: 1, time: 1, parts: parts, signer: signer)
        return try SignedDirectory(manifest, pieces: pieces)
    }

    private func segments(_ document: SignedDirectory, _ outline: DirectoryOutline?) throws -> [String] {
        try #require(outline).places.map { String(decoding: document.content[$0.range], as: UTF8.self) }
    }

    /// One device of 5,000 is another: one part is new, two where the change moves a cut.
    @Test func ofAChangeOnlyThatPartIsNew() throws {
        let text = "endpoints:\n- {match: \"a\", direct: true}\n"
        let first = try document(text + devices(5000))
        let before = try #require(DirectoryOutline(first))
        #expect(before.newSegments == before.places.count)
        #expect(before.places.count == first.manifest.parts.count)
        #expect(try segments(first, before).joined() == String(decoding: first.content, as: UTF8.self))
        let known = before.places.map(\.segment)
        for changed in [0, 17, 2500, 4999] {
            let next = try document(text + devices(5000, but: changed))
            let after = try #require(DirectoryOutline(next, known: known))
            #expect((1...2).contains(after.newSegments), "device \(changed)")
            #expect(try segments(next, after).joined() == String(decoding: next.content, as: UTF8.self))
        }
        // Another endpoint moves all of the lines, and changes one part.
        let moved = try document("# more\n" + text + devices(5000))
        #expect((1...2).contains(try #require(DirectoryOutline(moved, known: known)).newSegments))
        #expect(try #require(DirectoryOutline(first, known: known)).newSegments == 0)
    }

    @Test func segmentsBeginWithSectionsAndElements() throws {
        let document = try cut(
            "# mine\nendpoints:\n^- a\n  b\n^  c\n^- d\n# above\n^devices:\n^# none yet\n^- e\n^policy: [x]\n^revocations: |\n"
        )
        let outline = try #require(DirectoryOutline(document))
        #expect(
            try segments(document, outline) == [
                "# mine\nendpoints:\n", "- a\n  b\n  c\n", "- d\n# above\n", "devices:\n# none yet\n", "- e\n",
                "policy: [x]\n", "revocations: |\n",
            ]
        )
        let lists = outline.places.map(\.segment.openList)
        #expect(lists == ["endpoints", "endpoints", "endpoints", "devices", "devices", nil, nil])
        let names = outline.places.map { $0.segment.sections.map(\.name) }
        #expect(
            names == [
                ["endpoints"], ["endpoints"], ["endpoints"], ["devices"], ["devices"], ["policy"], ["revocations"],
            ]
        )
    }

    /// The same part in another list is another segment.
    @Test func aPartBelongsToItsList() throws {
        let first = try cut("endpoints:\n- a\n^- b\n^devices:\n- c\n")
        let outline = try #require(DirectoryOutline(first))
        let moved = try cut("devices:\n- c\n^- b\n")
        let after = try #require(DirectoryOutline(moved, known: outline.places.map(\.segment)))
        #expect(after.places.map(\.segment.list) == [nil, "devices"])
        // Its first part is known.
        #expect(after.newSegments == 1)
    }

    /// What another reader could take for something else is not cut.
    @Test(arguments: [
        "endpoints: [a,\nb]\n", "- a\n", "  a: b\n", "endpoints: [a]\n- b\n", "endpoints:\n  - a\n- b\n",
        "---\nendpoints:\n- a\n",
        "endpoints:\n- a\n...\n", "endpoints:\n-\n  a\n", "\u{FEFF}endpoints:\n- a\n", "endpoints:\r\n- a\r\n",
        "\"endpoints\":\n- a\n", "? endpoints\n", "endpoints:\n- a\nendpoints:\n- b\n", "%YAML 1.1\n---\na: b\n",
        "endpoints: &x\n- a\n",
        "endpoints:\n\t- a\n", "Endpoints:\n- a\n",
    ])
    func whatIsNotCut(text: String) throws {
        #expect(DirectoryOutline(try document(text)) == nil)
    }

    @Test func nothingHasNoSections() throws {
        #expect(try #require(DirectoryOutline(try document(""))).places.isEmpty)
        let remarks = try #require(DirectoryOutline(try document("# nothing\n\n")))
        #expect(remarks.places.map(\.segment.sections.count) == [0])
    }

    /// A line that is longer than a part is in two of them.
    @Test func aLineOverTwoPartsIsNotCut() throws {
        let long = "endpoints:\n- \(String(repeating: "x", count: 200_000))\n- b\n"
        let outline = try #require(DirectoryOutline(try document(long)))
        #expect(outline.places.count == 1)
        #expect(DirectoryOutline(try cut("endpoints:^\n- a\n")) == nil)
        #expect(DirectoryOutline(try cut("endpo^ints:\n- a\n")) == nil)
    }
}

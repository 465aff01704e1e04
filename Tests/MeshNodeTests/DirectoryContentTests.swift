import MeshDirectory
import MeshIdentity
import MeshPolicy
import Platform
import TestPeers
import Testing

@testable import MeshNode

/// A directory that is decoded after another one: what is the same is not decoded again, and what holds is what would
/// hold had all of it been.
@Suite struct DirectoryContentTests {
    private let ca: EmbeddedCA
    private let signer: DirectorySigner
    private let bundle: TrustBundle

    init() throws {
        let domain = try TrustDomain("mesh.example")
        ca = try EmbeddedCA(trustDomain: domain, now: WallClock.system.seconds)
        signer = try ca.makeDirectorySigner()
        bundle = try TrustBundle(trustDomain: domain, roots: ca.roots)
    }

    private static func device(_ number: Int, at address: String = "10.0.0.7:15008") -> String {
        "- {name: \"dev\(number)\", identity: \"spiffe://mesh.example/ns/prod/sa/dev\(number)\", hbone: [\"\(address)\"]}\n"
    }

    private static let people = """
        endpoints:
        - {match: "db.prod:5432", hbone: "10.0.0.1:15008", identity: "spiffe://mesh.example/ns/prod/sa/db"}
        - {match: "*.web", direct: true}
        policy:
        - {name: one, action: DENY, rules: [{to: [{ports: [99]}]}]}

        """

    private static func text(_ devices: [String]) -> String { people + "devices:\n" + devices.joined() }

    private func document(_ text: String, revision: Int64 = 1) throws -> SignedDirectory {
        try SignedDirectory(content: Array(text.utf8), domain: bundle.trustDomain, revision: revision, signer: signer)
    }

    private func content(_ text: String, after previous: DirectoryContent? = nil) throws -> DirectoryContent {
        try DirectoryContent(document(text), file: "f", bundle: bundle, after: previous)
    }

    private func whole(_ text: String) throws -> DirectoryContent {
        try DirectoryContent(parsing: Array(text.utf8), file: "f", bundle: bundle)
    }

    private func isSame(_ left: DirectoryContent, _ right: DirectoryContent) -> Bool {
        left.endpoints == right.endpoints && left.policies == right.policies && left.revocations == right.revocations
            && left.bundles.map(\.trustDomain) == right.bundles.map(\.trustDomain)
            && left.endpointCount == right.endpointCount
    }

    @Test func aChangeOfOneDeviceDecodesItsSegment() throws {
        var devices = (0..<3000).map { Self.device($0) }
        var last = try content(Self.text(devices))
        let all = last.blocks.count
        #expect(last.newSegments == all)
        #expect(all > 10)
        for (number, change) in [0, 1500, 2999].enumerated() {
            devices[change] = Self.device(change, at: "10.9.9.9:\(number + 1)")
            let next = try content(Self.text(devices), after: last)
            #expect((1...2).contains(next.newSegments), "device \(change)")
            let former = Set(last.blocks.map { ObjectIdentifier($0) })
            #expect(next.blocks.count { !former.contains(ObjectIdentifier($0)) } == next.newSegments)
            #expect(isSame(next, try whole(Self.text(devices))))
            // What has not changed is what it was.
            #expect(
                next.policies.withUnsafeBufferPointer { $0.baseAddress }
                    == last.policies.withUnsafeBufferPointer { $0.baseAddress }
            )
            last = next
        }
        // One comes, one goes.
        devices.insert(Self.device(5000), at: 700)
        devices.remove(at: 2000)
        let moved = try content(Self.text(devices), after: last)
        #expect((1...4).contains(moved.newSegments))
        #expect(isSame(moved, try whole(Self.text(devices))))
        #expect(try content(Self.text(devices), after: moved).newSegments == 0)
    }

    /// What was checked with other roots is checked again.
    @Test func otherRootsDecodeEverything() throws {
        let first = try content(Self.text((0..<500).map { Self.device($0) }))
        let other = try EmbeddedCA(trustDomain: bundle.trustDomain, now: WallClock.system.seconds)
        let both = try TrustBundle(trustDomain: bundle.trustDomain, roots: ca.roots + other.roots)
        let text = try document(Self.text((0..<500).map { Self.device($0) }))
        let next = try DirectoryContent(text, file: "f", bundle: both, after: first)
        #expect(next.newSegments == first.blocks.count)
    }

    /// What no segment knows by itself is refused all the same, with its lines.
    @Test func aDeviceThatIsThereTwice() throws {
        let devices = (0..<2000).map { Self.device($0) }
        let first = try content(Self.text(devices))
        let error = #expect(throws: ConfigurationError.self) {
            try content(Self.text(devices + [Self.device(7)]), after: first)
        }
        #expect(error?.description.contains("'dev7' is never used, since line 14 has the same destination") == true)
    }

    @Test(arguments: [
        "devices:\n", "devices: []\n", "unknown:\n- a\n",
        "policy:\n- {name: a, action: DENY, rules: [{}]}\n- {name: a, action: DENY, rules: [{}]}\n",
        "devices:\n- {name: localhost, identity: \"spiffe://mesh.example/ns/a/sa/b\", hbone: [\"a:1\"]}\n",
        "devices:\n- b: [\n",
        "devices: {}\n", "bundles:\n- {domain: mesh.example, roots: \"-----BEGIN \"}\n",
    ])
    func mistakesAreThoseOfTheWhole(text: String) throws {
        let expected = #expect(throws: ConfigurationError.self) { try whole(text) }
        let error = #expect(throws: ConfigurationError.self) { try content(text) }
        #expect(error?.description == expected?.description)
    }

    @Test func oneThatIsWrittenOddlyIsReadWhole() throws {
        let text = "{devices: [{name: dev1, identity: \"spiffe://mesh.example/ns/a/sa/b\", hbone: [\"a:1\"]}]}\n"
        let content = try content(text)
        #expect(content.endpoints.map(\.match.description) == ["dev1"])
        #expect(content.newSegments == 1)
    }

    /// Whatever is written, and wherever it is cut: what is read in segments is what the whole says, or nothing.
    @Test func anyTextAnywhereCut() throws {
        var fuzzer = Fuzzer("a directory in segments")
        let lists = Self.text((0..<4).map { Self.device($0) })
        let corpus = [
            lists, "# a\n" + lists + "# b\n",
            "devices:\n- name: a\n  identity: spiffe://mesh.example/ns/a/sa/b\n  hbone:\n  - a:1\n",
            "endpoints:\n- match: \"a\n    b\"\n  direct: true\n- {match: 'x:1',\n   direct: true}\npolicy:\n- name: >\n    a\n  action: DENY\n  rules: [{}]\n",
            "bundles: []\nendpoints: [{match: a, direct: true}]\n",
        ].map { Array($0.utf8) }
        let words = [
            "\n- ", "\n", "devices:", "endpoints:\n", "\u{2028}", "\r", "\"", "'", "|\n", ">\n", "[", "]", "{", "}",
            " # ", "\n# ", "\n  ",
            "\n---\n", "\n...\n", "&a ", "*a", "? ", ": ", "- ", "policy:\n",
        ].map { Array($0.utf8) }
        var previous: DirectoryContent?
        var (done, cut) = (0, 0)
        while fuzzer.goesOn(done, of: 3000) {
            done += 1
            let text =
                fuzzer.below(4) == 0 ? corpus[fuzzer.below(corpus.count)] : fuzzer.mutate(corpus, dictionary: words)
            let document = try self.document(text, cutBy: &fuzzer)
            let expected = try? DirectoryContent(parsing: text, file: "f", bundle: bundle)
            let found = try? DirectoryContent(document, file: "f", bundle: bundle, after: previous)
            guard let expected, let found else {
                #expect((expected == nil) == (found == nil), "\(String(decoding: text, as: UTF8.self))")
                continue
            }
            #expect(isSame(found, expected), "\(String(decoding: text, as: UTF8.self))")
            if found.blocks.count > 1 { cut += 1 }
            previous = found
        }
        #expect(cut > done / 20, "\(cut) of \(done) were cut")
    }

    /// At the ends of lines mostly, as real ones are.
    private func document(_ text: [UInt8], cutBy fuzzer: inout Fuzzer) throws -> SignedDirectory {
        var (parts, pieces): ([DirectoryManifest.Part], [String: [UInt8]]) = ([], [:])
        var start = 0
        for end in text.indices.map({ $0 + 1 }) {
            let isCut = text[end - 1] == UInt8(ascii: "\n") ? fuzzer.below(2) == 0 : fuzzer.below(400) == 0
            guard isCut || end == text.count else { continue }
            let piece = Array(text[start..<end])
            let hash = hexadecimal(Digest.sha256(piece))
            pieces[hash] = piece
            parts.append(DirectoryManifest.Part(hash: hash, length: piece.count))
            start = end
        }
        let name = bundle.trustDomain.name
        let manifest = try DirectoryManifest(domain: name, revision: 1, time: 1, parts: parts, signer: signer)
        return try SignedDirectory(manifest, pieces: pieces)
    }

    // MARK: In a node

    /// As it stands in a directory.
    private func revocationList(_ serial: String) throws -> String {
        let now = WallClock.system.seconds
        let revoked = [RevokedCertificate(serial: serial, revokedAt: now)]
        let list = try ca.revocationList(of: revoked, number: 1, nextUpdate: now + 3600)
        return String(decoding: list.pem, as: UTF8.self).split(separator: "\n").map { "  \($0)\n" }.joined()
    }

    private func force(
        _ text: String,
        _ revision: Int64,
        after previous: DirectoryInForce? = nil
    ) throws -> DirectoryInForce {
        let document = try document(text, revision: revision)
        return try DirectoryInForce(document, from: "a test", bundle: bundle, after: previous)
    }

    private func snapshot(_ directory: DirectoryInForce, keeping kept: NodeSnapshot? = nil) throws -> NodeSnapshot {
        let place = TemporaryDirectory()
        let pending = try CredentialDirectory(place.path("id")).prepare(
            id: SPIFFEID("spiffe://mesh.example/ns/prod/sa/near")
        )
        let issued = try ca.issue(pending.request, id: pending.id)
        _ = try pending.commit(chain: issued.chain, roots: issued.roots)
        let configuration = try NodeConfiguration.parse(
            "identity: /none\nlisteners: [{name: in, bind: \"127.0.0.1:0\", protocol: socks5}]\nendpoints: [{match: \"dev1\", direct: true}]\n",
            file: "f"
        )
        return try NodeSnapshot(
            configuration: kept?.own ?? configuration,
            directory: directory,
            identity: kept?.identity ?? NodeIdentity(credential: try CredentialDirectory(place.path("id")).load()),
            keeping: kept,
            warn: { _ in }
        )
    }

    /// Of a node, too, what a change leaves alone stays the same object.
    @Test func aChangeLeavesTheRestOfANodeAlone() throws {
        func route(_ destination: String, _ snapshot: NodeSnapshot) throws -> PeerID? {
            let request = StreamRequest(
                source: .localUser,
                sourceIP: .loopbackIPv4,
                transport: nil,
                destination: try Authority(parsing: destination),
                now: 0
            )
            let route = snapshot.planner.plan(request).route
            guard case .mesh(let mesh) = route.action else { return nil }
            return mesh.peer.id
        }
        var devices = (0..<1000).map { Self.device($0) }
        let first = try force(Self.text(devices), 1)
        let before = try snapshot(first)
        devices[500] = Self.device(500, at: "10.9.9.9:1")
        devices.append(Self.device(5000))
        let second = try force(Self.text(devices), 2, after: first)
        let after = try snapshot(second, keeping: before)
        #expect(after.server === before.server && after.client === before.client && after.inbound === before.inbound)
        #expect(try route("dev5000:80", before) == nil)
        for name in ["dev5000", "dev500", "dev3", "db.prod"] {
            let id = try #require(try route("\(name):5432", after), "\(name)")
            #expect(after.access(to: id) != nil, "\(name)")
            #expect(after.leads(to: id))
        }
        // The node's own file wins.
        #expect(try route("dev1:80", after) == nil)
        // Who has moved is another peer, as in the node's own file.
        let moved = try #require(try route("dev500:80", before))
        #expect(after.access(to: moved) == nil)
        #expect(before.access(to: moved) != nil)
        #expect(try route("dev3:80", before) == route("dev3:80", after))
        // What is revoked is another trust.
        let list = try revocationList(signer.certificate.serialNumber)
        let third = try force(Self.text(devices) + "revocations: |\n" + list, 3, after: second)
        #expect(try snapshot(third, keeping: after).client !== after.client)
        // And stays so, though the next says nothing of it.
        let fourth = try DirectoryContent.haveSameTrust(
            third.content,
            force(Self.text(devices), 4, after: third).content
        )
        #expect(fourth)
    }
}

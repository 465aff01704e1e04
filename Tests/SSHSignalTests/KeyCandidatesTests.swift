import TestPeers
import Testing

@testable import SSHSignal

/// Which keys are offered, in which order, before any server is asked.
@Suite struct KeyCandidatesTests {
    private let directory = TemporaryDirectory()

    /// A key of ssh-keygen's; its path, and its public half as an agent would list it.
    private func key(_ name: String) async throws -> (path: String, identity: AgentClient.Identity) {
        let path = directory.path(name)
        try await OpenSSHServer.makeKey("ecdsa", path)
        let file = try PrivateKeyFile(path: path)
        return (path, AgentClient.Identity(key: try #require(file.publicKey), comment: name))
    }

    private func certify(_ key: String) async throws {
        let ca = directory.path("ca")
        if (try? directory.read("ca")) == nil { try await OpenSSHServer.makeKey("ecdsa", ca) }
        let signed = try await ChildProcess.run("ssh-keygen", ["-q", "-s", ca, "-I", "test", "-n", "u", key + ".pub"])
        try #require(signed.succeeded, "\(signed.standardError)")
    }

    private func isAgents(_ candidate: KeyCandidate?) -> Bool {
        if case .agent = candidate?.signer { true } else { false }
    }

    @Test func aKeyOfBothIsUsedThroughTheAgentAndOfferedOnce() async throws {
        let (mine, other) = (try await key("mine"), try await key("other"))
        let found = KeyCandidates(
            [.keyFile(path: mine.path), .agent(socketPath: "/unused")],
            identities: [other.identity, mine.identity],
            identitiesOnly: false
        )
        #expect(found.list.map(\.key) == [mine.identity.key, other.identity.key])
        #expect(isAgents(found.list.first))
        #expect(found.notes.isEmpty)
    }

    @Test func ofTheAgentsKeysOnlyThoseThatAreNamed() async throws {
        let (mine, other) = (try await key("mine"), try await key("other"))
        let found = KeyCandidates(
            [.agent(socketPath: "/unused"), .keyFile(path: mine.path)],
            identities: [other.identity, mine.identity],
            identitiesOnly: true
        )
        #expect(found.list.map(\.key) == [mine.identity.key])
    }

    @Test func aCertificateBesideAKeyComesBehindIt() async throws {
        let mine = try await key("mine")
        try await certify(mine.path)
        let found = KeyCandidates([.keyFile(path: mine.path)], identities: [], identitiesOnly: false)
        #expect(found.list.map { $0.certificate != nil } == [false, true])
        #expect(found.list.last?.offered?.isCertificate == true)
        #expect(found.list.first?.offered == mine.identity.key)
    }

    @Test func aNamedCertificateComesFirstAndHidesThoseBesideKeys() async throws {
        let (mine, other) = (try await key("mine"), try await key("other"))
        try await certify(mine.path)
        try await certify(other.path)
        let found = KeyCandidates(
            [.keyFile(path: other.path), .keyFile(path: mine.path), .certificateFile(path: mine.path + "-cert.pub")],
            identities: [],
            identitiesOnly: false
        )
        #expect(found.list.map { $0.certificate != nil } == [true, false, false])
        #expect(found.list.map(\.key) == [mine.identity.key, other.identity.key, mine.identity.key])
    }

    @Test func whatCannotBeUsedIsNoted() async throws {
        let mine = try await key("mine")
        try await certify(mine.path)
        let found = KeyCandidates(
            [.keyFile(path: directory.path("missing")), .certificateFile(path: mine.path + "-cert.pub")],
            identities: [],
            identitiesOnly: false
        )
        #expect(found.list.isEmpty)
        #expect(found.notes.count == 2)
        #expect(found.notes.last?.contains("its key is neither in the files nor in the agent") == true)
    }
}

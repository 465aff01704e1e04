import Foundation
import Logging
import MeshIdentity
import MeshNode
import MeshPolicy
import Streams
import TestPeers
import Testing

@Suite(.timeLimit(.minutes(10))) struct NodeTests {
    @Test func bytesGoBothWaysAndEndCleanly() async throws {
        let backend = try EchoServer()
        let pair = try await NodePair(to: backend.port)
        let sent = Pattern.bytes(20_000_000, seed: 7)
        let (received, ending) = try await TCPClient.exchange(port: pair.entry, sending: sent)
        #expect(ending == .endOfStream)
        #expect(Checksum.of(received) == Checksum.of(sent))
        await pair.stop()
    }

    @Test func eightStreamsShareOneConnection() async throws {
        let backend = try EchoServer()
        let pair = try await NodePair(to: backend.port)
        try await withThrowingTaskGroup(of: Bool.self) { group in
            for index in 0..<8 {
                group.addTask { [entry = pair.entry] in
                    let sent = Pattern.bytes(1_000_000 + index, seed: UInt64(index))
                    let (received, ending) = try await TCPClient.exchange(port: entry, sending: sent)
                    return ending == .endOfStream && received == sent
                }
            }
            for try await isWhole in group { #expect(isWhole) }
        }
        await pair.stop()
    }

    @Test func serverSpeaksFirst() async throws {
        let backend = try SourceServer(count: 3_000_000, seed: 3)
        let pair = try await NodePair(to: backend.port)
        let (received, ending) = try await TCPClient.exchange(port: pair.entry, sending: [])
        #expect(ending == .endOfStream)
        #expect(Checksum.of(received) == Pattern.checksum(3_000_000, seed: 3))
        await pair.stop()
    }

    @Test func aRefusedBackendIsAReset() async throws {
        let closed = FreePort.next()
        let pair = try await NodePair(to: closed)
        let (_, ending) = try await TCPClient.exchange(port: pair.entry, sending: [1])
        #expect(ending == .broken(ECONNRESET))
        await pair.stop()
    }

    @Test func aPortThatPolicyDoesNotNameIsRefused() async throws {
        let backend = try EchoServer()
        let pair = try await NodePair(to: backend.port, allowed: [1])
        let (_, ending) = try await TCPClient.exchange(port: pair.entry, sending: [1])
        #expect(ending == .broken(ECONNRESET))
        #expect(backend.accepted == 0)
        await pair.stop()
    }

    @Test(arguments: [TestCertificates.Kind.intruder, .foreign, .rogue, .twoSANs, .noSAN])
    func aPeerThatMayNotGetsNothing(kind: TestCertificates.Kind) async throws {
        let backend = try EchoServer()
        let pair: NodePair
        do {
            pair = try await NodePair(to: backend.port, client: kind)
        } catch let error as IdentityError {
            // A credential that every peer would refuse is not even loaded.
            #expect([.noSAN, .twoSANs, .rogue].contains(kind), "\(error)")
            return
        }
        let (received, ending) = try await TCPClient.exchange(port: pair.entry, sending: [1])
        #expect(received.isEmpty)
        #expect(ending == .broken(ECONNRESET))
        #expect(backend.accepted == 0)
        await pair.stop()
    }

    @Test func aServerThatIsSomebodyElseIsRefusedAlsoWhereSSHWouldWork() async throws {
        let backend = try EchoServer()
        let sshd = try await OpenSSHServer()
        let pair = try await NodePair(
            to: backend.port,
            expecting: "spiffe://mesh.example/ns/prod/sa/somebody-else",
            ssh: try await sshd.endpointYAML()
        )
        let (received, ending) = try await TCPClient.exchange(port: pair.entry, sending: [1])
        #expect(received.isEmpty)
        #expect(ending == .broken(ECONNRESET))
        #expect(backend.accepted == 0, "a failed authentication must not be got around by another path")
        await pair.stop()
        await sshd.stop()
    }

    @Test(arguments: ["h2-over-ssh", "ssh"])
    func everyPathCarriesTheStream(path: String) async throws {
        let backend = try EchoServer()
        let sshd = try await OpenSSHServer()
        let pair = try await NodePair(to: backend.port, ssh: try await sshd.endpointYAML(), path: path)
        let sent = Pattern.bytes(5_000_000, seed: 11)
        let (received, ending) = try await TCPClient.exchange(port: pair.entry, sending: sent)
        #expect(ending == .endOfStream)
        #expect(Checksum.of(received) == Checksum.of(sent))
        try await sshd.logged("Accepted publickey")
        await pair.stop()
        await sshd.stop()
    }

    @Test(arguments: ["libssh2", "openssh"]) func anEndpointNamesItsEngine(_ engine: String) async throws {
        let backend = try EchoServer()
        let sshd = try await OpenSSHServer(configuration: ["LogLevel DEBUG1"])
        let ssh = try await sshd.endpointYAML(more: ", engine: \(engine)")
        let pair = try await NodePair(to: backend.port, ssh: ssh, path: "ssh")
        let (received, ending) = try await TCPClient.exchange(port: pair.entry, sending: [1, 2, 3])
        #expect(ending == .endOfStream)
        #expect(received == [1, 2, 3])
        let name = engine == "libssh2" ? "libssh2_" : "OpenSSH_"
        try await sshd.logged("remote software version \(name)")
        await pair.stop()
        await sshd.stop()
    }

    /// What only `ssh` can decide is left to it.
    @Test(arguments: ["h2-over-ssh", "ssh"])
    func everyPathCarriesTheStreamByWayOfTheSSHProgram(path: String) async throws {
        let backend = try EchoServer()
        let sshd = try await OpenSSHServer()
        let ssh = try await sshd.endpointYAML(sshConfiguration: "RekeyLimit 1G 1h\n")
        let pair = try await NodePair(to: backend.port, ssh: ssh, path: path)
        let sent = Pattern.bytes(5_000_000, seed: 12)
        let (received, ending) = try await TCPClient.exchange(port: pair.entry, sending: sent)
        #expect(ending == .endOfStream)
        #expect(Checksum.of(received) == Checksum.of(sent))
        try await sshd.logged("Accepted publickey")
        let session = try #require(sshd.sessionProcesses.first)
        await pair.stop()
        try await eventually("the ssh program has ended") { !sshd.sessionProcesses.contains(session) }
        await sshd.stop()
    }

    @Test func anUnknownHostKeyIsRefusedWithoutATerminal() async throws {
        let backend = try EchoServer()
        let sshd = try await OpenSSHServer()
        let pair = try await NodePair(
            to: backend.port,
            ssh: try await sshd.endpointYAML(knowsHost: false),
            path: "ssh"
        )
        let (_, ending) = try await TCPClient.exchange(port: pair.entry, sending: [1])
        #expect(ending == .broken(ECONNRESET))
        #expect(!sshd.log.contains("Accepted publickey"))
        await pair.stop()
        await sshd.stop()
    }

    @Test func aPolicyChangeCutsStreamsThatLost() async throws {
        let backend = try EchoServer()
        let pair = try await NodePair(to: backend.port)
        let conversation = try await TCPConversation(port: pair.entry)
        #expect(try await conversation.echo([1]) == [1])
        // It is idle now: the port is closed to everybody.
        try pair.directory.write(
            "server.yaml",
            NodeFile.server(identity: TestCertificates.shared.path(.server), ports: [1])
        )
        try await pair.server.reload()
        let (_, cut) = try await conversation.end(finishing: false)
        #expect(cut == .broken(ECONNRESET), "a stream that policy no longer allows does not live on")
        let (_, ending) = try await TCPClient.exchange(port: pair.entry, sending: [1])
        #expect(ending == .broken(ECONNRESET))
        await pair.stop()
    }

    /// The fallback must not be a way around policy, not even for a stream that took it before.
    @Test func aPolicyChangeCutsStreamsThatTookAWayThatIsNowForbidden() async throws {
        let backend = try EchoServer()
        let sshd = try await OpenSSHServer()
        let pair = try await NodePair(to: backend.port, ssh: try await sshd.endpointYAML(), path: "ssh")
        let conversation = try await TCPConversation(port: pair.entry)
        #expect(try await conversation.echo([1, 2, 3]) == [1, 2, 3])
        let configuration = try pair.directory.read("client.yaml")
        try pair.directory.write(
            "client.yaml",
            configuration + "\npolicy: [{name: native, action: DENY, rules: [{when: [{transport: [ssh]}]}]}]\n"
        )
        try await pair.client.reload()
        let (_, ending) = try await conversation.end(finishing: false)
        #expect(ending == .broken(ECONNRESET))
        await pair.stop()
        await sshd.stop()
    }

    @Test func aBrokenConfigurationIsNotTakenOver() async throws {
        let backend = try EchoServer()
        let pair = try await NodePair(to: backend.port)
        try pair.directory.write("server.yaml", "identity: [")
        await #expect(throws: (any Error).self) { try await pair.server.reload() }
        let (received, ending) = try await TCPClient.exchange(port: pair.entry, sending: [1, 2, 3])
        #expect(ending == .endOfStream)
        #expect(received == [1, 2, 3])
        await pair.stop()
    }

    @Test func aPortInUseIsAnErrorThatNamesIt() async throws {
        let taken = try EchoServer()
        let directory = TemporaryDirectory()
        let file = try directory.write(
            "node.yaml",
            """
            identity: \(TestCertificates.shared.path(.server))
            listeners:
            - {name: hbone, bind: "127.0.0.1:\(taken.port)", protocol: hbone}
            """
        )
        let node = Node(try NodeConfiguration.load(file), loops: 1, logger: Logger(label: "test"))
        let error = await #expect(throws: StreamError.self) { _ = try await node.start() }
        #expect(error?.code == .addressInUse)
        #expect(error?.message.contains("127.0.0.1:\(taken.port)") == true)
    }
}

extension OpenSSHServer {
    /// The `ssh` key of an endpoint that leads to this server.
    ///
    /// - Parameters:
    ///   - through: A port that leads to the server's.
    ///   - more: Further keys.
    func endpointYAML(
        knowsHost: Bool = true,
        sshConfiguration: String = "",
        through: UInt16? = nil,
        more: String = ""
    ) async throws -> String {
        let port = through ?? port
        let key = try directory.read("host_ed25519.pub").split(separator: " ").prefix(2).joined(separator: " ")
        let knownHosts = try directory.write("known_hosts", knowsHost ? "[127.0.0.1]:\(port) \(key)\n" : "")
        let configuration = try directory.write("ssh_config", sshConfiguration, permissions: 0o600)
        return """
              ssh: {destination: "\(Self.user)@127.0.0.1:\(port)", identityFile: \(userKey), knownHosts: \(knownHosts), config: \(configuration)\(more)}
            """
    }
}

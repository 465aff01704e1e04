import Foundation
import H2Transport
import Logging
import MeshIdentity
import MeshPolicy
import Platform
import Streams
import TestDevices
import TestPeers
import Testing

@testable import MeshPaths
@testable import SSHSignal

/// Paths to a peer whose recorded address leads nowhere any more, and which says over SSH where it is now.
@Suite(.timeLimit(.minutes(10))) struct NegotiationTests {
    private let directory = TemporaryDirectory()
    private let loop = EventLoop(name: "test")

    /// Confined to its loop.
    private final class Client {
        private(set) var paths: PeerPaths!
        private(set) var changes: [String] = []
        private(set) var negotiated: [NegotiatedAddresses] = []
        private(set) var proven: [Authority] = []

        init(
            to recorded: Authority,
            _ login: SSHLogin,
            signaling command: String,
            transports: [Transport] = [.h2, .ssh],
            on loop: EventLoop
        ) throws {
            let certificates = TestCertificates.shared
            let context = try TLSContext(
                role: .client,
                credential: certificates.credential(.client),
                trust: TrustBundleSet(certificates.bundle())
            )
            var access = PeerAccess(
                name: "peer",
                transports: transports,
                hbone: [recorded],
                expectation: .identities([try certificates.credential(.server).id]),
                login: login
            )
            access.signalCommand = command
            paths = PeerPaths(
                to: access,
                context: context,
                on: loop,
                logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
            ) { [weak self] in self?.changes.append("\($0)") }
            paths.staysConnected = true
            paths.onNegotiated = { [weak self] in self?.negotiated.append($0) }
            paths.onProven = { [weak self] in self?.proven.append($0) }
        }
    }

    /// - Parameter root: Who vouches for its clients.
    private func server(
        _ kind: TestCertificates.Kind,
        trusting root: String = "root"
    ) async throws -> (LoopBound<AcceptingPeer>, UInt16) {
        let server = try await loop.execute { [loop] in
            LoopBound(try AcceptingPeer(kind, trusting: root, on: loop), on: loop)
        }
        return (server, try await loop.execute { server.withValue { $0.listener?.localAddress.port ?? 0 } })
    }

    private func client(
        _ sshd: OpenSSHServer,
        _ command: String,
        transports: [Transport] = [.h2, .ssh]
    ) async throws -> LoopBound<Client> {
        let login = try sshd.login(in: directory)
        // Nothing listens there.
        let recorded = try Authority(parsing: "127.0.0.1:\(FreePort.next())")
        let client = try await loop.execute { [loop] in
            LoopBound(
                try Client(to: recorded, login, signaling: command, transports: transports, on: loop),
                on: loop
            )
        }
        try await loop.execute { client.withValue { $0.paths.start() } }
        return client
    }

    private func end(
        _ client: LoopBound<Client>,
        _ servers: [LoopBound<AcceptingPeer>],
        _ sshd: OpenSSHServer
    ) async throws {
        try await loop.execute {
            client.withValue { $0.paths.shutDown() }
            for server in servers { server.withValue { $0.close() } }
        }
        await loop.shutDown()
        await sshd.stop()
    }

    @Test("the path goes where the peer says that it is, and the peer is told of it")
    func anotherPort() async throws {
        let sshd = try await OpenSSHServer()
        let (server, port) = try await server(.server)
        let offer = SignalMessage.Offer(
            generation: 3,
            candidates: [.init(address: "127.0.0.1:\(port)"), .init(address: "192.168.77.7:15008")]
        )
        let agent = try SpokenAgent(saying: [SpokenAgent.hello(), .offer(offer)], in: directory)
        let client = try await client(sshd, agent.command)
        try await eventually("path h2") {
            try await loop.execute { client.withValue { $0.paths.pathInUse?.transport == .h2 } }
        }
        let (report, proven, changes, negotiated) = try await loop.execute {
            client.withValue { ($0.paths.report[0], $0.proven, $0.changes, $0.negotiated) }
        }
        #expect(proven.map(\.port) == [port])
        #expect(changes.contains { $0.contains("ssh → h2") }, "\(changes)")
        let address = try #require(report.addresses.first)
        #expect(address.address.port == port && address.isTold && address.handshake != nil)
        #expect(report.addresses.last?.failure != nil, "the recorded one: \(report.addresses)")
        #expect(negotiated.count == 1 && negotiated[0].new.map(\.port) == [port])

        var outcomes: [SignalMessage.Outcome] = []
        try await eventually("the peer has been told") {
            outcomes = try agent.outcomes()
            return !outcomes.isEmpty
        }
        let outcome = try #require(outcomes.first)
        #expect(outcome.chosen == "h2" && outcome.generation == 3)
        #expect(outcome.tried.first { $0.address == "127.0.0.1:\(port)" }?.answered == true)
        let offers = try agent.heard().joined().compactMap { if case .offer(let offer) = $0 { offer } else { nil } }
        #expect(offers.first?.transports == ["h2", "ssh"])
        try await end(client, [server], sshd)
    }

    @Test("what goes over SSH goes to the port where the peer's server listens now")
    func anotherPortOverSSH() async throws {
        let sshd = try await OpenSSHServer()
        let (server, port) = try await server(.server)
        // The forward has a port of its own, and neither of them is dialled from here.
        let offer = SignalMessage.Offer(
            generation: 3,
            candidates: [
                .init(address: "192.168.77.7:443", source: "configured"),
                .init(address: "192.168.77.8:\(port)", source: "interface"),
            ]
        )
        let agent = try SpokenAgent(saying: [SpokenAgent.hello(), .offer(offer)], in: directory)
        let client = try await client(sshd, agent.command, transports: [.h2, .h2OverSSH, .ssh])
        try await eventually("path h2-over-ssh") {
            try await loop.execute { client.withValue { $0.paths.pathInUse?.transport == .h2OverSSH } }
        }
        let changes = try await loop.execute { client.withValue(\.changes) }
        #expect(changes.contains { $0.contains("ssh → h2-over-ssh") }, "\(changes)")
        try await end(client, [server], sshd)
    }

    @Test("another machine at an address that the peer names is left aside, and does not refuse the peer")
    func aStranger() async throws {
        let sshd = try await OpenSSHServer()
        let (stranger, first) = try await server(.client)
        let (server, port) = try await server(.server)
        let offer = SignalMessage.Offer(
            candidates: [.init(address: "127.0.0.1:\(first)"), .init(address: "127.0.0.1:\(port)")]
        )
        let agent = try SpokenAgent(saying: [SpokenAgent.hello(), .offer(offer)], in: directory)
        let client = try await client(sshd, agent.command)
        try await eventually("path h2") {
            try await loop.execute { client.withValue { $0.paths.pathInUse?.transport == .h2 } }
        }
        let (report, changes) = try await loop.execute {
            client.withValue { ($0.paths.report[0], $0.changes) }
        }
        #expect(!report.addresses.contains { $0.address.port == first })
        #expect(report.addresses.first?.address.port == port)
        #expect(!changes.contains { $0.contains("refused the peer") }, "\(changes)")
        var outcomes: [SignalMessage.Outcome] = []
        try await eventually("the peer has been told") {
            outcomes = try agent.outcomes()
            return !outcomes.isEmpty
        }
        // Nor does it learn of it.
        #expect(outcomes.first?.tried.contains { $0.address.hasSuffix(":\(first)") } == false)
        try await end(client, [stranger, server], sshd)
    }

    /// It has proved who it is, and does not believe this side: that is an answer, on every path.
    @Test("the peer itself that refuses this side at an address that it names is no stranger")
    func thePeerRefuses() async throws {
        let sshd = try await OpenSSHServer()
        let (server, port) = try await server(.server, trusting: "partner")
        let offer = SignalMessage.Offer(candidates: [.init(address: "127.0.0.1:\(port)")])
        let agent = try SpokenAgent(saying: [SpokenAgent.hello(), .offer(offer)], in: directory)
        let client = try await client(sshd, agent.command)
        try await eventually("the peer is refused") {
            try await loop.execute {
                client.withValue { $0.changes.contains { $0.contains("refused our certificate") } }
            }
        }
        let report = try await loop.execute { client.withValue { $0.paths.report[0] } }
        #expect(report.addresses.contains { $0.address.port == port }, "\(report.addresses)")
        try await end(client, [server], sshd)
    }

    @Test(
        "what is no negotiation costs nothing: path ssh stays",
        arguments: ["older", "garbage", "silence", "hostile"]
    )
    func othersThanAgents(_ kind: String) async throws {
        let sshd = try await OpenSSHServer()
        let messages: [SignalMessage] =
            switch kind {
            case "older": [SpokenAgent.hello(["enroll", "renew"])]
            case "hostile":
                [
                    SpokenAgent.hello(),
                    .offer(.init(candidates: (0..<4096).map { .init(address: "192.0.2.1:\($0 + 1)") })),
                ]
            default: []
            }
        let agent = try SpokenAgent(saying: messages, in: directory)
        let command =
            switch kind {
            case "garbage": "echo 'Last login: today'; echo; exit 1"
            case "silence": "exit 0"
            default: agent.command
            }
        let client = try await client(sshd, command)
        try await eventually("path ssh") {
            try await loop.execute { client.withValue { $0.paths.pathInUse?.transport == .ssh } }
        }
        if kind == "older" || kind == "hostile" {
            try await eventually("it was asked") { try !agent.heard().isEmpty }
            let types = try agent.heard().first?.map(\.type)
            #expect(types == (kind == "older" ? ["hello", "bye"] : ["hello", "offer", "error"]))
        }
        let (addresses, negotiated, inUse) = try await loop.execute {
            client.withValue { ($0.paths.report[0].addresses.count, $0.negotiated.count, $0.paths.pathInUse) }
        }
        #expect(addresses == 1 && negotiated == 0 && inUse?.transport == .ssh)
        try await end(client, [], sshd)
    }
}

import Foundation
import H2Transport
import Logging
import MeshIdentity
import MeshPaths
import MeshPolicy
import Platform
import Streams
import TestPeers
import Testing

@testable import MeshNode

/// `connect -R` by the node: what becomes of the port, and of what came by it, when a connection, a certificate or the
/// node's process is replaced by the next.
@Suite(.timeLimit(.minutes(10))) struct RemoteForwardTests {
    /// The client's side. Confined to its loop.
    private final class Client {
        private var paths: PeerPaths?
        private(set) var changes: [String] = []

        init(
            to hbone: UInt16,
            on host: String,
            _ port: UInt16,
            leadingTo backend: UInt16,
            showing credential: Credential,
            on loop: EventLoop
        ) throws {
            let access = PeerAccess(
                name: "device",
                transports: [.h2],
                hbone: [try Authority(parsing: "127.0.0.1:\(hbone)")],
                expectation: .anyTrusted,
                login: nil
            )
            let paths = PeerPaths(
                to: access,
                context: try Self.context(credential),
                on: loop,
                logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() },
                onChange: { _ in }
            )
            self.paths = paths
            let destination = ForwardDestination.authority(try Authority(parsing: "127.0.0.1:\(backend)"))
            paths.forward(RemoteForward(bindHost: host, port: port, destination: destination)) { [weak self] change in
                switch change {
                case .listening(let port, by: let listener): self?.changes.append("listening \(port) by \(listener)")
                case .lost(let error): self?.changes.append("lost \(error.message)")
                case .refused(let error): self?.changes.append("refused \(error.message)")
                }
            }
        }

        static func context(_ credential: Credential) throws -> TLSContext {
            try TLSContext(role: .client, credential: credential, trust: TrustBundleSet(credential.bundle))
        }

        func use(_ credential: Credential) throws { paths?.use(try Self.context(credential)) }

        func stop() {
            paths?.shutDown()
            paths = nil
        }
    }

    /// A client whose port `far` on the node's side leads to a backend.
    private final class Bench: Sendable {
        let directory = TemporaryDirectory()
        let backend: EchoServer
        let far = FreePort.next()
        private let loop = EventLoop(name: "client")
        private let client = Lock<LoopBound<Client>?>(nil)

        init() throws { backend = try EchoServer() }

        func yaml(
            identity: String = TestCertificates.shared.path(.server),
            bind: UInt16 = 0,
            address: String? = nil,
            _ settings: String = ""
        ) -> String {
            let address = address.map { ", address: \"\($0):*\"" } ?? ""
            return """
                identity: \(identity)
                listeners: [{name: hbone, bind: "127.0.0.1:\(bind)", protocol: hbone}]
                endpoints: [{match: "listen.bootstrap:\(far)"\(address), direct: true}]
                \(settings)
                """
        }

        func startClient(
            to hbone: UInt16,
            on host: String = "localhost",
            showing credential: Credential? = nil
        ) async throws {
            let credential = try credential ?? TestCertificates.shared.credential(.client)
            let (loop, far, backend) = (loop, far, backend.port)
            let bound = try await loop.execute {
                let client = try Client(
                    to: hbone,
                    on: host,
                    far,
                    leadingTo: backend,
                    showing: credential,
                    on: loop
                )
                return LoopBound(client, on: loop)
            }
            client.withLock { $0 = bound }
            try await listens(1)
        }

        func withClient<Result: Sendable>(_ body: @escaping @Sendable (Client) throws -> Result) async throws -> Result
        {
            let client = try #require(client.withLock { $0 })
            return try await loop.execute { try client.withValue { try body($0) } }
        }

        /// What the client has been told.
        func changes() async throws -> [String] { try await withClient { $0.changes } }

        /// The node has said so many times that it listens.
        func listens(_ count: Int) async throws {
            let expected = "listening \(far) by node"
            try await eventually("the node listens") {
                try await changes().count { $0 == expected } == count
            }
        }

        func exchange(_ seed: UInt64) async throws {
            let sent = Pattern.bytes(100_000, seed: seed)
            let (received, ending) = try await TCPClient.exchange(port: far, sending: sent)
            #expect(ending == .endOfStream && Checksum.of(received) == Checksum.of(sent))
        }

        /// `stream` and the port are as if nothing had happened, and nothing was told.
        func expectUntouched(_ stream: TCPConversation) async throws {
            let bytes = Pattern.bytes(300_000, seed: 1)
            #expect(try await stream.echo(bytes) == bytes)
            try await exchange(2)
            let (rest, ending) = try await stream.end()
            #expect(rest == 0 && ending == .endOfStream)
            #expect(try await changes() == ["listening \(far) by node"])
        }

        func stop() async throws {
            try await withClient { $0.stop() }
            await loop.shutDown()
        }
    }

    @Test("over the age of its connection, port and streams stay", arguments: [true, false])
    func age(isResumable: Bool) async throws {
        let bench = try Bench()
        let yaml = bench.yaml("connections: {resumable: \(isResumable), maximumAge: 1s}")
        let node = Node(
            try NodeConfiguration.load(try bench.directory.write("node.yaml", yaml)),
            loops: 2,
            logger: LogRecorder().logger
        )
        let link = try CuttingLink(to: try #require(try await node.start().first).address.port)
        try await bench.startClient(to: link.port)
        let stream = try await TCPConversation(port: bench.far)
        #expect(try await stream.echo([1]) == [1])
        // What can resume goes along each time; what cannot stays on the first one, and nobody needs a third.
        try await eventually("the connection has been followed by others") {
            link.accepted >= (isResumable ? 4 : 2)
        }
        try await bench.expectUntouched(stream)
        try await bench.stop()
        await node.drain(deadline: .zero)
        link.close()
    }

    @Test("what is cut with its connection's age is listened on again") func cutWithItsConnection() async throws {
        let bench = try Bench()
        let yaml = bench.yaml("connections: {resumable: false, maximumAge: 2s, drainTimeout: 100ms}")
        let node = Node(
            try NodeConfiguration.load(try bench.directory.write("node.yaml", yaml)),
            loops: 1,
            logger: LogRecorder().logger
        )
        try await bench.startClient(to: try #require(try await node.start().first).address.port)
        let stream = try await TCPConversation(port: bench.far)
        #expect(try await stream.echo([1]) == [1])
        #expect(try await stream.end(finishing: false).1 == .broken(ECONNRESET))
        try await bench.listens(2)
        try await bench.stop()
        await node.drain(deadline: .zero)
    }

    @Test("over the renewal of both certificates, port and streams stay") func renewal() async throws {
        let bench = try Bench()
        let ca = try EmbeddedCA.create(
            directory: bench.directory.path("ca"),
            trustDomain: TrustDomain("mesh.example")
        )
        func issue(_ name: String, _ lifetime: Duration) throws -> Credential {
            let identity = CredentialDirectory(bench.directory.path(name))
            let pending = try identity.prepare(id: SPIFFEID("spiffe://mesh.example/ns/prod/sa/\(name)"))
            let issued = try ca.issue(pending.request, id: pending.id, options: IssuanceOptions(lifetime: lifetime))
            _ = try pending.commit(chain: issued.chain, roots: issued.roots)
            return try identity.load()
        }
        // Long enough for a slow machine to begin before.
        _ = try issue("server", .seconds(20))
        let first = try issue("client", .seconds(25))
        let file = try bench.directory.write("node.yaml", bench.yaml(identity: bench.directory.path("server")))
        let node = Node(
            try NodeConfiguration.load(file),
            configurationFile: file,
            loops: 2,
            logger: LogRecorder().logger
        )
        let link = try CuttingLink(to: try #require(try await node.start().first).address.port)
        try await bench.startClient(to: link.port, showing: first)
        let stream = try await TCPConversation(port: bench.far)
        #expect(try await stream.echo([1]) == [1])
        _ = try issue("server", .seconds(3600))
        try await node.reload()
        let second = try issue("client", .seconds(3600))
        try await bench.withClient { try $0.use(second) }
        #expect(try await stream.echo([2]) == [2])
        // At the end of one of the old ones the connection takes no more streams.
        try await eventually("the connection has been followed by another one") { link.accepted >= 2 }
        try await eventually("the first one is left") { link.open == 1 }
        try await bench.expectUntouched(stream)
        try await bench.stop()
        await node.drain(deadline: .zero)
        link.close()
    }

    /// Also with a stream of the mesh beside it, which stays with the process that has it.
    @Test(
        "when another process takes the node's place, that listens at once, and what is open goes on",
        arguments: [(String, String?, String)]([
            ("localhost", nil, "127.0.0.1"), ("0.0.0.0", "0.0.0.0", "0.0.0.0"), ("", "[::]", "[::]"),
        ])
    )
    func takeover(host: String, address: String?, expected: String) async throws {
        let bench = try Bench()
        let hbone = FreePort.next()
        let file = try bench.directory.write("node.yaml", bench.yaml(bind: hbone, address: address))
        func start() async throws -> ChildProcess {
            let arguments = ["node", "--config", file, "--runtime", bench.directory.path("run"), "-v"]
            let process = try ChildProcess(TestTools.bootstrap, arguments)
            _ = try await process.standardOutput.line(containing: "ready ")
            return process
        }
        let first = try await start()
        try await bench.startClient(to: hbone, on: host)
        _ = try await first.standardError.line(containing: " on=\(expected):\(bench.far) ")
        let stream = try await TCPConversation(port: bench.far)
        #expect(try await stream.echo([1]) == [1])

        let second = try await start()
        try await bench.listens(2)
        #expect(try await bench.changes().count == 3)
        try await bench.exchange(1)
        #expect(try await stream.echo([2]) == [2])
        #expect(first.isRunning)
        let (rest, ending) = try await stream.end()
        #expect(rest == 0 && ending == .endOfStream)
        #expect(try await first.exit() == .exited(0))
        try await bench.exchange(2)
        // It knows nothing of what the first one had, and is not asked.
        #expect(!second.standardError.text.contains("was not resumed"), "\(second.standardError.text)")
        try await bench.stop()
        await second.stop()
    }
}

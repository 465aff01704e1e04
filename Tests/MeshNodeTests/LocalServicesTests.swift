import H2Transport
import MeshIdentity
import MeshNode
import Platform
import Streams
import TestPeers
import Testing

/// Services of the node's own machine, which listen at one of its addresses.
@Suite(.timeLimit(.minutes(10))) struct LocalServicesTests {
    /// Where the service listens, what a peer asks for, and whether it gets there: as with `ssh -W`.
    struct Case: Sendable, CustomTestStringConvertible {
        var listens: String
        var named: String
        var isReached = true
        var testDescription: String { "\(named), which listens at \(listens)" }
    }

    @Test(
        "a service is reached at the address that it listens at, whichever that is",
        arguments: [
            Case(listens: "127.0.0.1", named: "localhost"), Case(listens: "127.0.0.1", named: "127.0.0.1"),
            Case(listens: "::1", named: "localhost"), Case(listens: "::1", named: "[::1]"),
            Case(listens: "127.0.0.2", named: "127.0.0.2"),
            Case(listens: "127.0.0.2", named: "127.0.0.1", isReached: false),
            Case(listens: "::1", named: "127.0.0.1", isReached: false),
        ]
    )
    func reached(_ test: Case) async throws {
        let certificates = TestCertificates.shared
        let loop = EventLoop(name: "service")
        let service = try await loop.execute {
            let listener = try Listener(bind: SocketAddress(ip: test.listens, port: 0), on: loop) { socket in
                _ = Array("service".utf8).withUnsafeBytes { socket.write($0) }
                socket.finish()
                socket.close()
            }
            return LoopBound(listener, on: loop)
        }
        let port = try await loop.execute { service.withValue(\.localAddress.port) }
        let directory = TemporaryDirectory()
        let file = try directory.write(
            "node.yaml",
            """
            identity: \(certificates.path(.server))
            listeners:
            - {name: hbone, bind: "127.0.0.1:0", protocol: hbone}
            policy:
            - {name: service, action: ALLOW, rules: [{from: [{namespaces: [prod]}], to: [{ports: [\(port)]}]}]}
            """
        )
        let log = LogRecorder()
        let node = Node(try NodeConfiguration.load(file), configurationFile: file, loops: 1, logger: log.logger)
        let hbone = try #require(try await node.start().first).address.port
        let client = try await HBONEClient(credentials: .directory(certificates.path(.client)))
        let destination = try Authority(parsing: "\(test.named):\(port)")
        let peer = HBONEPeer(try Authority(parsing: "127.0.0.1:\(hbone)"), expecting: .anyTrusted)
        do {
            let answer = try await client.withStream(to: destination, through: peer) { stream in
                var bytes: [UInt8] = []
                for try await chunk in stream.inbound { bytes += chunk }
                return String(decoding: bytes, as: UTF8.self)
            }
            #expect(answer == "service")
            #expect(test.isReached)
        } catch {
            #expect(!test.isReached, "\(error)")
        }
        await client.shutDown()
        await node.drain(deadline: .seconds(1))
        try await loop.execute { service.withValue { $0.close() } }
        await loop.shutDown()
    }
}

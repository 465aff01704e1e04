import Foundation
import MeshNode
import Streams
import TestPeers
import Testing

/// Proxies and load balancers of others between two nodes, which end TLS and HTTP/2 and see ciphertext.
@Suite(.timeLimit(.minutes(10))) struct TunnelInteropTests {
    enum Hop: String, CaseIterable, Sendable {
        case envoyPOST, envoyCONNECT, envoyUnwraps, haproxyPOST, haproxyCONNECT, nghttpxPOST, nghttpxCONNECT

        var method: String { rawValue.hasSuffix("CONNECT") ? "CONNECT" : "POST" }

        /// The program, its configuration in Tests/Peers, and what it is told.
        var program: (path: String, configuration: String, arguments: (String) -> [String]) {
            switch self {
            case .envoyPOST, .envoyCONNECT, .envoyUnwraps:
                (
                    TestTools.envoy, "envoy/tunnel.yaml",
                    { ["--config-path", $0, "--disable-hot-restart", "--concurrency", "1", "--log-level", "warn"] }
                )
            case .haproxyPOST, .haproxyCONNECT: ("/usr/sbin/haproxy", "haproxy/tunnel.cfg", { ["-db", "-f", $0] })
            case .nghttpxPOST, .nghttpxCONNECT: ("/usr/sbin/nghttpx", "nghttpx/tunnel.conf", { ["--conf=\($0)"] })
            }
        }

        func start(
            _ certificate: String,
            to upstream: UInt16,
            in directory: TemporaryDirectory
        ) async throws
            -> TunnelNodes.Proxy
        {
            // Some want chain and key in one file, and a directory of their own.
            var both = ""
            for name in ["cert-chain.pem", "key.pem"] {
                let text = try String(contentsOfFile: "\(certificate)/\(name)", encoding: .utf8)
                both += text
                _ = try directory.write(name, text)
            }
            _ = try directory.write("both.pem", both)
            let (path, configuration, arguments) = program
            let port = FreePort.next()
            var text = try String(
                contentsOfFile: "\(TestTools.repository)/Tests/Peers/\(configuration)",
                encoding: .utf8
            )
            let unwraps = "upgrade_configs: [{upgrade_type: CONNECT, connect_config: {allow_post: true}}]"
            let values = [
                "PORT": "\(port)", "SERVER": "\(upstream)", "CREDENTIAL": directory.path,
                "MODE": self == .envoyUnwraps ? "unwrap" : "pass", "UPGRADE": self == .envoyUnwraps ? unwraps : "",
            ]
            for (name, value) in values { text = text.replacingOccurrences(of: "@\(name)@", with: value) }
            let process = try ChildProcess(path, arguments(try directory.write("proxy.yaml", text)))
            try await eventually("\(self) listens") {
                guard process.isRunning else { throw DeadlineExceeded(process.standardError.text) }
                return (try? await TCPConversation(port: port)) != nil
            }
            return TunnelNodes.Proxy(process, port: port)
        }
    }

    private static func nodes(
        _ hop: Hop,
        to backend: UInt16,
        in directory: TemporaryDirectory
    ) async throws -> TunnelNodes {
        try await TunnelNodes(
            to: backend,
            method: hop.method,
            hop: { try await hop.start($0, to: $1, in: directory) },
            endpoint: ["token: {file: DIR/token}"],
            // What comes out of the tunnel is TLS on a TCP connection.
            listener: hop == .envoyUnwraps
                ? "protocol: tls, clients: mesh, forwardTo: \"127.0.0.1:\(backend)\""
                : "protocol: hbone, cleartext: true",
            files: ["token": "a.b.c"]
        )
    }

    @Test(arguments: Hop.allCases) func bytesInBothDirections(hop: Hop) async throws {
        let (backend, directory) = (try EchoServer(), TemporaryDirectory())
        let nodes = try await Self.nodes(hop, to: backend.port, in: directory)
        // Small ones wait for nothing.
        let conversation = try await TCPConversation(port: nodes.entry)
        #expect(try await conversation.echo([1, 2, 3]) == [1, 2, 3], "\(nodes.nearLog.lines) \(nodes.farLog.lines)")
        // See the one below: what is on its way when the service ends is lost there.
        if hop == .envoyUnwraps { return await nodes.stop() }
        let bytes = Pattern.bytes(3_000_000, seed: 5)
        let (received, ending) = try await TCPClient.exchange(port: nodes.entry, sending: bytes)
        #expect(received == bytes && ending == .endOfStream, "\(received.count) \(ending) \(nodes.nearLog.lines)")
        #expect(try await conversation.echo([4, 5]) == [4, 5])
        #expect(try await conversation.end() == (0, .endOfStream))
        await nodes.stop()
    }

    /// The client ends first, and the server answers after that; or the server ends first, and the client goes on.
    @Test(arguments: Hop.allCases) func eitherEndsFirst(hop: Hop) async throws {
        let bytes = Pattern.bytes(500_000, seed: 6)
        let sink = try SinkServer()
        // Kept, since a proxy may read its files when it has long been listening.
        let directories = (TemporaryDirectory(), TemporaryDirectory())
        defer { withExtendedLifetime(directories) {} }
        let up = try await Self.nodes(hop, to: sink.port, in: directories.0)
        let (answer, ending) = try await TCPClient.exchange(port: up.entry, sending: bytes)
        #expect(answer == Array("\(Checksum.of(bytes)) 500000\n".utf8) && ending == .endOfStream, "\(up.nearLog.lines)")
        await up.stop()

        // What comes out there is a TCP connection, of which Envoy tells the client no half-close.
        if hop == .envoyUnwraps { return }
        let source = try SourceServer(count: 500_000)
        let down = try await Self.nodes(hop, to: source.port, in: directories.1)
        let (received, end) = try await TCPClient.exchange(port: down.entry, sending: bytes)
        #expect(received == Pattern.bytes(500_000, seed: 1) && end == .endOfStream, "\(down.nearLog.lines)")
        let transfer = try await source.transfers(1)[0]
        #expect(transfer.received == bytes.count && transfer.ending == .endOfStream)
        await down.stop()
    }
}

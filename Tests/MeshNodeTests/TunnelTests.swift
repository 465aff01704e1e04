import Foundation
import MeshNode
import Platform
import Streams
import TestPeers
import Testing

/// Streams through a proxy that is not trusted: what it is shown, what it sees, and what comes of whatever it does.
@Suite(.timeLimit(.minutes(10))) struct TunnelTests {
    private static let marker = "the bytes that nobody on the way may read "

    @Test(arguments: ["POST", "CONNECT"]) func theProxySeesCiphertextOnly(method: String) async throws {
        let backend = try EchoServer()
        let nodes = try await TunnelNodes(
            to: backend.port,
            method: method,
            proxy: ["mark=\(Self.marker)"],
            endpoint: ["token: {file: DIR/token}"],
            files: ["token": "not.a.token\n"],
            farSettings: "accessLog: {file: DIR/far.log}",
            nearSettings: "accessLog: {file: DIR/near.log}"
        )
        let bytes = Array(String(repeating: Self.marker, count: 20_000).utf8)
        let (received, ending) = try await TCPClient.exchange(port: nodes.entry, sending: bytes)
        #expect(received == bytes && ending == .endOfStream, "\(nodes.nearLog.lines) \(nodes.farLog.lines)")

        let over = try await nodes.proxy.ended()[0]
        #expect(over.marked == false && over.count ?? 0 > 2 * bytes.count)
        let request = try #require(nodes.proxy.requests.first)
        let authority = method == "POST" ? TunnelNodes.proxyName : "\(TunnelNodes.proxyName):\(nodes.proxy.port)"
        #expect(request[":method"] == method && request[":authority"] == authority, "\(request)")
        #expect(request[":scheme"] == (method == "POST" ? "https" : nil))
        #expect(request[":path"] == (method == "POST" ? "/" : nil))
        #expect(request["x-tun"] == "127.0.0.1:\(backend.port)")
        #expect(request["authorization"] == "Bearer not.a.token")
        #expect(request.keys.filter { !$0.hasPrefix(":") }.sorted() == ["authorization", "x-tun"])

        let far = try await AccessLogTests.wait(for: 1, in: nodes.directory.path("far.log"))[0]
        #expect(far["source"] == "spiffe://mesh.example/ns/prod/sa/client" && far["listener"] == "tunnels", "\(far)")
        #expect(far["dialled"] == "127.0.0.1:\(backend.port)" && far["rule"] == "1" && far["outcome"] == "ended")
        let near = try await AccessLogTests.wait(for: 1, in: nodes.directory.path("near.log"))[0]
        #expect(near["path"] == "h2" && near["peer"] == "spiffe://mesh.example/ns/prod/sa/server", "\(near)")
        for log in [nodes.nearLog, nodes.farLog] {
            #expect(!log.lines.contains { $0.contains("not.a.token") })
        }
        await nodes.stop()
    }

    /// Either end can be first, and what the other one still has to say arrives.
    @Test func halfCloseGoesThrough() async throws {
        let (source, sink) = (try SourceServer(count: 300_000), try SinkServer())
        for server in [source, sink] as [LoopbackServer] {
            let nodes = try await TunnelNodes(to: server.port)
            let bytes = Pattern.bytes(200_000, seed: 3)
            let (received, ending) = try await TCPClient.exchange(port: nodes.entry, sending: bytes)
            #expect(ending == .endOfStream)
            #expect(
                received.count == (server === source ? 300_000 : Array("\(Checksum.of(bytes)) 200000\n".utf8).count)
            )
            let transfer = try await server.transfers(1)[0]
            #expect(transfer.received == bytes.count && transfer.ending == .endOfStream)
            await nodes.stop()
        }
    }

    @Test func manyStreamsAtOnceHaveTheirOwnBytes() async throws {
        let backend = try EchoServer()
        let nodes = try await TunnelNodes(to: backend.port)
        try await withThrowingTaskGroup(of: Void.self) { group in
            for index in 0..<24 {
                group.addTask {
                    let bytes = Pattern.bytes(40_000 + index, seed: UInt64(index))
                    let (received, ending) = try await TCPClient.exchange(port: nodes.entry, sending: bytes)
                    #expect(received == bytes && ending == .endOfStream)
                }
            }
            try await group.waitForAll()
        }
        #expect(try await nodes.proxy.asked(24).count == 24)
        await nodes.stop()
    }

    /// What a proxy does for which no byte may pass, and what the log says.
    @Test(arguments: [
        (["plain"], "does not speak TLS"),
        (["status=403"], "does not let this client"),
        (["status=404"], "it has no route for POST"), (["status=502"], "it does not reach what is behind it"),
        (["status=405"], "it takes no POST"), (["status=401"], "it asks for a token: add 'token'"),
    ]) func hostileProxies(options: [String], reason: String) async throws {
        let backend = try EchoServer()
        let nodes = try await TunnelNodes(to: backend.port, proxy: options)
        let (received, ending) = try await TCPClient.exchange(port: nodes.entry, sending: [1, 2, 3])
        #expect(received == [] && ending == .broken(ECONNRESET))
        let line = try #require(nodes.nearLog.lines.first { $0.contains("no stream to 127.0.0.1:\(backend.port)") })
        #expect(line.contains(reason), "\(line)")
        #expect(backend.accepted == 0)
        await nodes.stop()
    }

    /// Proxies that do not speak HTTP/2, or are somebody else.
    @Test(arguments: [
        (["http1"], TunnelNodes.proxyName, "rogue", "HTTP"),
        (["silent"], TunnelNodes.proxyName, "rogue", "did not choose HTTP/2"),
        ([], "other.example.net", "rogue", "not for tunnel.example.net"),
        // The mesh's own root vouches for nobody of the web.
        ([], TunnelNodes.proxyName, "root", "not signed by a root that is trusted for it"),
    ]) func proxiesThatAreNone(options: [String], name: String, issuer: String, reason: String) async throws {
        let backend = try EchoServer()
        let nodes = try await TunnelNodes(
            to: backend.port,
            proxy: options,
            certificate: try TunnelNodes.proxyCertificate(name, issuer: issuer)
        )
        let (received, ending) = try await TCPClient.exchange(port: nodes.entry, sending: [1, 2, 3])
        #expect(received == [] && ending == .broken(ECONNRESET))
        let line = try #require(nodes.nearLog.lines.first { $0.contains("no stream to") })
        #expect(line.contains(reason), "\(line)")
        await nodes.stop()
    }

    /// Bytes that were altered, or that are missing at the end, are no clean end.
    @Test(arguments: [["flip"], ["end=60000"], ["cut=60000"], ["end=1"], ["cut=1"]])
    func whatIsChangedOnTheWayIsNoticed(
        options: [String]
    ) async throws {
        let backend = try EchoServer()
        let nodes = try await TunnelNodes(to: backend.port, proxy: options)
        let (_, ending) = try await TCPClient.exchange(port: nodes.entry, sending: Pattern.bytes(100_000, seed: 1))
        #expect(ending == .broken(ECONNRESET))
        await nodes.stop()
    }

    /// The destination is said inside, too: a proxy that writes another one changes nothing but that the stream fails,
    /// although the same node serves both, and its policy allows both.
    @Test func anotherDestinationIsNoticed() async throws {
        let (backend, other) = (try EchoServer(), try EchoServer())
        let nodes = try await TunnelNodes(
            to: backend.port,
            proxy: ["swap=127.0.0.1:\(other.port)"],
            allowed: [backend.port, other.port]
        )
        let (received, ending) = try await TCPClient.exchange(port: nodes.entry, sending: [1, 2, 3])
        #expect(received == [] && ending == .broken(ECONNRESET))
        #expect(backend.accepted == 0 && other.accepted == 0)
        try await eventually("the workload says why") {
            nodes.farLog.lines.contains { $0.contains("somebody on the way has changed the destination") }
        }
        await nodes.stop()
    }

    /// A proxy that leads to another workload of the mesh: that one cannot prove to be the one that is asked for.
    @Test func anotherWorkloadIsNoticed() async throws {
        let backend = try EchoServer()
        let nodes = try await TunnelNodes(to: backend.port, far: .intruder)
        let (received, ending) = try await TCPClient.exchange(port: nodes.entry, sending: [1, 2, 3])
        #expect(received == [] && ending == .broken(ECONNRESET))
        #expect(backend.accepted == 0)
        let line = try #require(nodes.nearLog.lines.first { $0.contains("no stream to") })
        #expect(line.contains("nobody proves to be") && line.contains("ns/intruder/sa/client"), "\(line)")
        await nodes.stop()
    }

    /// What was recorded opens nothing once more.
    @Test func aReplayReachesNobody() async throws {
        let backend = try EchoServer()
        let nodes = try await TunnelNodes(to: backend.port, proxy: ["replay"])
        let (received, _) = try await TCPClient.exchange(port: nodes.entry, sending: [1, 2, 3])
        #expect(received == [1, 2, 3])
        try await eventually("the replay is over") { nodes.proxy.events.contains { $0.replayed != nil } }
        #expect(backend.accepted == 1)
        await nodes.stop()
    }

    /// Policy is asked about whoever is inside, and nothing of the destination is touched before.
    @Test func policyIsOfTheInnerIdentity() async throws {
        let backend = try EchoServer()
        let nodes = try await TunnelNodes(to: backend.port, near: .intruder)
        let (received, ending) = try await TCPClient.exchange(port: nodes.entry, sending: [1, 2, 3])
        #expect(received == [] && ending == .broken(ECONNRESET))
        #expect(backend.accepted == 0)
        await nodes.stop()
    }

    /// Of a trust domain that nobody here vouches for: found when the configuration is read, not with each stream.
    @Test func aWorkloadThatCannotBeVerifiedIsNoEndpoint() async throws {
        let backend = try EchoServer()
        let error = await #expect(throws: ConfigurationError.self) {
            _ = try await TunnelNodes(to: backend.port, near: .foreign)
        }
        #expect(error.map { "\($0)".contains("nobody here vouches for mesh.example") } == true)
    }

    /// A token that the proxy does not take is replaced once, by what the file has meanwhile.
    @Test func aRefusedTokenIsReplacedOnce() async throws {
        let backend = try EchoServer()
        let nodes = try await TunnelNodes(
            to: backend.port,
            proxy: ["token=DIR/right"],
            endpoint: ["token: {file: DIR/token}"],
            files: ["token": "alpha-token", "right": "alpha-token"]
        )
        func exchange() async throws -> [UInt8] {
            try await TCPClient.exchange(port: nodes.entry, sending: [1, 2, 3]).received
        }
        #expect(try await exchange() == [1, 2, 3])
        try nodes.directory.write("right", "beta-token")
        // It is asked for once, and the file has nothing else.
        #expect(try await exchange() == [])
        #expect(try await nodes.proxy.asked(2).count == 2)
        #expect(nodes.nearLog.lines.contains { $0.contains("has no other one yet") })
        try nodes.directory.write("token", "beta-token")
        #expect(try await exchange() == [1, 2, 3])
        #expect(try await nodes.proxy.asked(3).last?["authorization"] == "Bearer beta-token")
        #expect(!nodes.nearLog.lines.contains { $0.contains("alpha-token") || $0.contains("beta-token") })
        await nodes.stop()
    }

    /// A program is told whom the token is for, and keeps what it says for itself.
    @Test func aProgramPrintsTheToken() async throws {
        let backend = try EchoServer()
        let script = "#!/bin/sh\necho \"for-$BOOTSTRAP_TOKEN_AUDIENCE-$1\"\n"
        let nodes = try await TunnelNodes(
            to: backend.port,
            endpoint: ["token: {exec: [/bin/sh, DIR/print, word]}"],
            files: ["print": script]
        )
        #expect(try await TCPClient.exchange(port: nodes.entry, sending: [1, 2, 3]).received == [1, 2, 3])
        let token = "Bearer for-https://\(TunnelNodes.proxyName)-word"
        #expect(try await nodes.proxy.asked().first?["authorization"] == token)
        await nodes.stop()

        let failing = try await TunnelNodes(
            to: backend.port,
            endpoint: ["token: {exec: [/bin/sh, DIR/print]}"],
            files: ["print": "echo secret; echo no such account >&2; exit 3"]
        )
        #expect(try await TCPClient.exchange(port: failing.entry, sending: [1]).received == [])
        let line = try #require(failing.nearLog.lines.first { $0.contains("no stream to") })
        #expect(line.contains("no such account") && !line.contains("secret"), "\(line)")
        #expect(failing.proxy.requests.isEmpty)
        await failing.stop()
    }
}

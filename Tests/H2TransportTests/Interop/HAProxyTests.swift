import Foundation
import H2Transport
import MeshIdentity
import Streams
import TestPeers
import Testing

/// HAProxy between our client and our server: as an HTTP/2 hop that sees each CONNECT, and as a load balancer of TCP.
///
/// The load balancer changes nothing, half-close and resets included. The hop carries bytes and the client's end; for a
/// server that ends first, and for a backend's reset, see the tests.
@Suite(.timeLimit(.minutes(10)))
struct HAProxyTests {
    private static let bytes = 8_000_000

    private static let haproxy = InteropProxy(
        name: "HAProxy",
        program: "/usr/sbin/haproxy",
        configuration: "haproxy/haproxy.cfg",
        arguments: { ["-db", "-f", $0] }
    )

    enum Place: String, CaseIterable, Sendable { case hop, level4 }

    /// Our server, HAProxy in front of it, and our client, which expects `identity` of whoever answers.
    private func withHAProxy(
        _ place: Place,
        _ body: (OnLoop<PoolUser>, OnLoop<RelayingServer>) async throws -> Void
    ) async throws {
        // HAProxy wants chain and key in one file; it has an identity of its own.
        let credential = TestCertificates.shared.path(.intermediate)
        let directory = TemporaryDirectory()
        let both = try ["cert-chain.pem", "key.pem"].map {
            try String(contentsOfFile: "\(credential)/\($0)", encoding: .utf8)
        }
        try directory.write("both.pem", both.joined(), permissions: 0o600)
        try FileManager.default.copyItem(
            atPath: "\(credential)/root-cert.pem",
            toPath: directory.path("root-cert.pem")
        )
        let ports = [Place.hop: FreePort.next(), .level4: FreePort.next()]
        try await Self.haproxy.run(
            port: ports[place] ?? 0,
            values: [
                "HOP": "\(ports[.hop] ?? 0)", "LEVEL4": "\(ports[.level4] ?? 0)", "CREDENTIAL": directory.path,
            ],
            in: directory,
            body
        )
    }

    private func open(_ user: OnLoop<PoolUser>, _ authority: String) async throws -> Int {
        try await InteropProxy.open(user, authority)
    }

    @Test("bytes up and both ways, and the client's end", arguments: Place.allCases)
    func bytes(_ place: Place) async throws {
        let (sink, echo) = (try SinkServer(), try EchoServer())
        try await withHAProxy(place) { user, server in
            let up = try await open(user, sink.authority)
            try await user { $0.streams[up].send(Self.bytes) }
            try await user.until("the answer is read") { $0.streams[up].readEnded }
            let answer = try await user { $0.streams[up].text }
            #expect(answer == "\(Pattern.checksum(Self.bytes)) \(Self.bytes)\n")
            let both = try await open(user, echo.authority)
            try await user { $0.streams[both].send(Self.bytes, seed: 2) }
            try await user.until("the echo is read") { $0.streams[both].readEnded }
            let checksum = try await user { $0.streams[both].takeChecksum() }
            #expect(checksum == Pattern.checksum(Self.bytes, seed: 2))
            // Whom each side sees: the hop is a peer of its own, the load balancer is nobody.
            let seen = try await (
                server { $0.peers[0]?.description },
                user {
                    $0.pool.connections(to: $0.endpoint.key)[0].peer?.description
                }
            )
            let client = "spiffe://mesh.example/ns/prod/sa/client"
            #expect(seen.0 == client)
            #expect(seen.1 == (place == .hop ? client : "spiffe://mesh.example/ns/prod/sa/server"))
        }
        sink.close()
        echo.close()
    }

    @Test(
        "the server ends first: all its bytes arrive; what follows arrives through TCP only",
        arguments: Place.allCases
    )
    func serverEndsFirst(_ place: Place) async throws {
        let source = try SourceServer(count: Self.bytes)
        try await withHAProxy(place) { user, _ in
            let down = try await open(user, source.authority)
            try await user.until("everything is read") { $0.streams[down].readEnded || $0.streams[down].failed }
            let checksum = try await user { $0.streams[down].takeChecksum() }
            #expect(checksum == Pattern.checksum(Self.bytes))
            guard place == .level4 else { return }
            try await user { $0.streams[down].send("late words", finish: true) }
            let transfer = try await source.transfers(1)[0]
            #expect(transfer.received == 10)
            #expect(transfer.ending == .endOfStream)
        }
        source.close()
    }

    /// HAProxy's hop passes on a client's RST_STREAM as END_STREAM and RST_STREAM(CANCEL).
    @Test(
        "the client aborts: the backend is reset through TCP; through the hop it is let go",
        arguments: Place.allCases
    )
    func clientAborts(_ place: Place) async throws {
        let echo = try EchoServer()
        try await withHAProxy(place) { user, _ in
            let stream = try await open(user, echo.authority)
            try await user { $0.streams[stream].send("hello") }
            try await user.until("the echo comes") { $0.streams[stream].receivedCount == 5 }
            try await user { $0.streams[stream].stream.reset(StreamError(.reset, "the client aborts")) }
            let transfer = try await echo.transfers(1)[0]
            if place == .level4 { #expect(transfer.ending == .broken(104)) }
            #expect(transfer.received == 5)
        }
        echo.close()
    }

    /// HAProxy's hop turns our RST_STREAM(CONNECT_ERROR) into END_STREAM and RST_STREAM(CANCEL), which is what it makes
    /// of a server that ends first, too: nothing tells the client that bytes were lost.
    @Test("the backend aborts: a reset through TCP; the hop makes a clean end of it")
    func backendAborts() async throws {
        for place in Place.allCases {
            try await withHAProxy(place) { user, server in
                let backend = try await OnLoop(user.loop) { [loop = user.loop] in try AbortingServer(on: loop) }
                let port = try await backend { $0.port }
                let stream = try await open(user, "127.0.0.1:\(port)")
                try await user { $0.streams[stream].send("hello") }
                try await backend.until("the bytes arrive") { $0.reads == 5 }
                try await backend { $0.abort() }
                try await user.until("the stream is over") { $0.streams[stream].readEnded || $0.streams[stream].failed }
                let (ended, code) = try await user {
                    ($0.streams[stream].readEnded, $0.streams[stream].stream.failure?.code)
                }
                if place == .level4 {
                    #expect(!ended)
                    #expect(code == .reset)
                } else {
                    #expect(ended || code == .reset)
                }
                let result = try await server { $0.results.first?.failure?.code }
                #expect(result == .reset)
                try await backend { $0.close() }
            }
        }
    }

    @Test("refusals pass the hop with their status and reason", arguments: Place.allCases)
    func refusals(_ place: Place) async throws {
        try await withHAProxy(place) { user, server in
            try await user { $0.open("127.0.0.1:\(FreePort.next())") }
            try await user.until("the first request fails") { $0.failures.count == 1 }
            try await server { $0.rejection = .denied("policy") }
            try await user { $0.open("127.0.0.1:1") }
            try await user.until("the second request fails") { $0.failures.count == 2 }
            let failures = try await user { $0.failures }
            #expect(failures.map(\.error.code) == [.refused, .denied])
            #expect(failures.map(\.response?.status) == [503, 403])
            #expect(failures[1].error.message.contains("policy"))
        }
    }
}

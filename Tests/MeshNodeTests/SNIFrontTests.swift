import Foundation
import Platform
import Streams
import TestPeers
import Testing

@testable import MeshNode

/// TLS through the mesh by the name that its client asks for, with real clients and a real server.
@Suite(.timeLimit(.minutes(10))) struct SNIFrontTests {
    private static let sni = "- {name: sni, bind: \"127.0.0.1:0\", protocol: sni}"
    private static let peers = "\(TestTools.repository)/Tests/Peers/tls"

    private static func alert(_ alert: TLSAlert) -> [UInt8] { [21, 3, 3, 0, 2, 2, alert.rawValue] }

    /// A TLS server of Python's, with a certificate of its own for `web.mesh`.
    private struct Server {
        let directory = TemporaryDirectory()
        let process: ChildProcess
        let port: UInt16
        var certificate: String { directory.path("cert.pem") }

        init() async throws {
            let process = try ChildProcess(
                TestTools.python,
                ["\(SNIFrontTests.peers)/server.py", directory.path(""), "web.mesh"]
            )
            self.process = process
            try await eventually("the TLS server says its port: \(process.standardError.text)") {
                process.standardOutput.text.hasSuffix("\n")
            }
            port = try #require(UInt16(process.standardOutput.text.dropLast()))
        }

        /// What the client got, who asks for `name` and expects the server's own certificate.
        func ask(
            _ name: String,
            at port: UInt16,
            piece: Int = 65536,
            count: Int = 1000
        ) async throws
            -> ChildProcess.Output
        {
            try await ChildProcess.run(
                "python3",
                ["\(SNIFrontTests.peers)/client.py", "\(port)", certificate, name, "web.mesh", "\(piece)", "\(count)"]
            )
        }
    }

    @Test func clientAndServerSpeakTLSWithEachOtherAlone() async throws {
        let server = try await Server()
        let nodes = try await FrontNodes(
            Self.sni,
            names: ["web.mesh:443": server.port, "web.mesh:8443": server.port]
        )
        let sni = try nodes.port("sni")
        // Whole, and split at every byte; many bytes after it, and few.
        for (name, piece, count) in [
            ("web.mesh", 65536, 1_000_000), ("web.mesh", 1, 10), ("outbound_.8443_._.web.mesh", 65536, 1000),
            ("outbound_.8443_.v1_.web.mesh", 100, 1000),
        ] {
            let output = try await server.ask(name, at: sni, piece: piece, count: count)
            #expect(output.standardOutput == "the server's own TLSv1.3\n", "\(name): \(output.standardError)")
        }
        let curl = try await ChildProcess.run(
            "curl",
            [
                "-sS", "--max-time", "60", "--cacert", server.certificate, "--resolve", "web.mesh:\(sni):127.0.0.1",
                "https://web.mesh:\(sni)/", "--tls-max", "1.2",
            ]
        )
        #expect(curl.standardOutput == "web.mesh TLSv1.2\n", "\(curl.standardError)")
        try await eventually("no stream is left") { await nodes.near.liveStreams() == 0 }
        await nodes.stop()
        await server.process.stop()
    }

    /// The server gets the very bytes of the client, those after the hello included.
    @Test func theServerGetsWhatTheClientSent() async throws {
        let backend = try EchoServer()
        let nodes = try await FrontNodes(Self.sni, names: ["web.mesh:443": backend.port, "web.mesh:80": backend.port])
        let sni = try nodes.port("sni")
        for name in ["web.mesh", "outbound_.80_._.WEB.mesh"] {
            let message = HelloMaker(name).message
            for hello in [HelloMaker.records(message, size: 1 << 14), HelloMaker.records(message, size: 1)] {
                for early in [[], [23, 3, 3, 0, 1, 7], Pattern.bytes(200_000, seed: 4)] as [[UInt8]] {
                    let (received, ending) = try await TCPClient.exchange(port: sni, sending: hello + early)
                    #expect(received == hello + early && ending == .endOfStream, "\(name), \(early.count)")
                }
            }
        }
        await nodes.stop()
    }

    @Test func whoCannotBeServedIsToldByAnAlert() async throws {
        let backend = try EchoServer()
        let nodes = try await FrontNodes(
            Self.sni,
            names: [
                "closed.mesh:443": FreePort.next(), "denied.mesh:443": backend.port, "web.mesh:443": backend.port,
            ],
            denied: [backend.port],
            more: "default: direct"
        )
        let sni = try nodes.port("sni")
        var withoutName = HelloMaker()
        withoutName.extensions = [(43, [2, 3, 4])]
        var encrypted = HelloMaker("web.mesh")
        encrypted.extensions?.append((0xFE0D, [0, 0, 1, 0, 1, 9, 0, 0, 0, 0]))
        let refused: [([UInt8], [UInt8])] = [
            (withoutName.bytes, Self.alert(.missingExtension)),
            (encrypted.bytes, Self.alert(.unrecognizedName)),
            (HelloMaker("127.0.0.1").bytes, Self.alert(.unrecognizedName)),
            (HelloMaker("web.mesh.").bytes, Self.alert(.unrecognizedName)),
            (HelloMaker("denied.mesh").bytes, Self.alert(.accessDenied)),
            (HelloMaker("closed.mesh").bytes, Self.alert(.internalError)),
            // The listener itself.
            (HelloMaker("outbound_.\(sni)_._.localhost").bytes, Self.alert(.accessDenied)),
            (Array("GET / HTTP/1.1\r\n\r\n".utf8), []),
        ]
        for (hello, answer) in refused {
            let (received, ending) = try await TCPClient.exchange(port: sni, sending: hello, staysOpen: true)
            #expect(received == answer && ending == .endOfStream, "\(hello): \(received), \(ending)")
        }
        #expect(backend.accepted == 0)
        #expect(nodes.nearLog.lines.contains { $0.contains("names no server (SNI)") })
        // A TLS client understands it.
        let output = try await ChildProcess.run(
            "python3",
            ["\(Self.peers)/client.py", "\(sni)", TestCertificates.shared.caPath("root"), "denied.mesh", "x", "9", "1"]
        )
        #expect(output.standardOutput == "refused: TLSV1_ALERT_ACCESS_DENIED\n", "\(output.standardError)")
        await nodes.stop()
    }

    /// Nobody beyond this machine has a name in the mesh, so that policy must let anybody in.
    @Test func beyondLoopbackOnlyPolicyLetsAnybodyIn() async throws {
        let backend = try EchoServer()
        let nodes = try await FrontNodes(
            "- {name: sni, bind: \"0.0.0.0:0\", protocol: sni}",
            names: ["web.mesh:443": backend.port, "open.mesh:443": backend.port],
            more: """
                default: direct
                policy: [{name: anybody, action: ALLOW, rules: [{to: [{hosts: [open.mesh], ports: [443]}]}]}]
                """
        )
        let sni = try nodes.port("sni")
        for name in ["web.mesh", "outbound_.\(backend.port)_._.localhost", "outbound_.\(sni)_._.localhost"] {
            let (received, _) = try await TCPClient.exchange(port: sni, sending: HelloMaker(name).bytes)
            #expect(received == Self.alert(.accessDenied), "\(name)")
        }
        #expect(backend.accepted == 0)
        let hello = HelloMaker("open.mesh").bytes
        #expect(try await TCPClient.exchange(port: sni, sending: hello).received == hello)
        await nodes.stop()
    }

    /// Who connects and says nothing, or half of it, holds nobody up, and who hangs up leaves nothing.
    @Test func silentAndHalfFinishedClientsHarmNobody() async throws {
        let backend = try EchoServer()
        let nodes = try await FrontNodes(Self.sni, names: ["web.mesh:443": backend.port])
        let sni = try nodes.port("sni")
        let hello = HelloMaker("web.mesh").bytes
        var silent: [TCPConversation] = []
        for _ in 0..<200 { silent.append(try await TCPConversation(port: sni)) }
        for count in 0..<hello.count {
            let (received, _) = try await TCPClient.exchange(port: sni, sending: Array(hello[..<count]))
            #expect(received == [])
        }
        #expect(try await TCPClient.exchange(port: sni, sending: hello + [7]).received == hello + [7])
        silent = []
        try await eventually("no stream is left") { await nodes.near.liveStreams() == 0 }
        await nodes.stop()
    }

    /// A client whose ClientHello is not whole in time is sent away, and so is one that makes room for others.
    @Test func theHelloMustBeWholeInTime() async throws {
        let loop = EventLoop(name: "hello")
        for isCrowded in [false, true] {
            let error: StreamError = try await withCheckedThrowingContinuation { continuation in
                loop.submit {
                    let (client, front) = MemoryStream.pair(on: loop)
                    let connection = SNIConnection(
                        front,
                        .init(
                            connect: { _, _ in
                                Issue.record("half a hello leads somewhere")
                                return {}
                            },
                            failed: { destination, error in
                                #expect(destination == nil)
                                #expect(client.failure?.code == .reset)
                                client.close()
                                continuation.resume(returning: error)
                            }
                        )
                    )
                    _ = HelloMaker().bytes.dropLast().withUnsafeBytes { client.write($0) }
                    connection.start(timeout: isCrowded ? .seconds(600) : .milliseconds(1))
                    if isCrowded { connection.drop(.crowdedOut) }
                }
            }
            #expect(error.code == (isCrowded ? .limit : .timedOut), "\(error)")
        }
        #expect(SNIConnection.timeout == .seconds(10))
    }

    /// Who goes while the far end is dialled is not waited for.
    @Test func whoGoesMeanwhileCancelsTheDial() async throws {
        let loop = EventLoop(name: "hello")
        let told: (Authority?, Bool) = await withCheckedContinuation { continuation in
            loop.submit {
                let (client, front) = MemoryStream.pair(on: loop)
                var isCancelled = false
                let connection = SNIConnection(
                    front,
                    .init(
                        connect: { _, _ in
                            client.reset(StreamError(.closed, "it goes"))
                            return { isCancelled = true }
                        },
                        failed: { destination, _ in continuation.resume(returning: (destination, isCancelled)) }
                    )
                )
                _ = HelloMaker("web.mesh").bytes.withUnsafeBytes { client.write($0) }
                connection.start()
            }
        }
        #expect(told.0?.description == "web.mesh:443")
        #expect(told.1)
    }
}

import Foundation
import H2Transport
import Streams
import TestPeers
import Testing

/// Go's `golang.org/x/net/http2` on Go's own TLS, as server of our client and as client of our server.
@Suite(.timeLimit(.minutes(10)))
struct GoHTTP2Tests {
    private static let bytes = 8_000_000

    // MARK: Go is the server

    @Test("our client, Go's server: bytes up, down and both ways")
    func server() async throws {
        try await OurClient.of(.go) { ours in
            try await ours.moves(Self.bytes)
            let request = try await ours.peer.event("request")
            #expect(request.peer == "spiffe://mesh.example/ns/prod/sa/client")
        }
    }

    @Test("our client, Go's server: END_STREAM and then RST_STREAM(NO_ERROR) is a clean end of all that was sent")
    func serverEndsFirst() async throws {
        try await OurClient.of(.go) { try await $0.serverEndsFirst(Self.bytes, then: .resets) }
    }

    @Test("our client, Go's server: a reset is a reset, in both directions")
    func serverResets() async throws {
        try await OurClient.of(.go) { ours in
            // A handler that aborts: RST_STREAM(INTERNAL_ERROR).
            let (ended, code) = try await ours.backendAborts()
            #expect(!ended)
            #expect(code == .reset)
            try await ours.weAbort()
            try await ours.peer.event("reset") { $0.reason?.hasSuffix("CONNECT_ERROR") == true }
            try await ours.peer.event("reset") { $0.reason?.hasSuffix("CANCEL") == true }
        }
    }

    @Test("our client, Go's server: refusals by status")
    func serverRefuses() async throws {
        let nobody = "127.0.0.1:\(FreePort.next())"
        try await OurClient.of(.go) { ours in
            let failure = try await ours.refusal(nobody)
            #expect(failure.response?.status == 503)
            #expect(failure.error.code == .unreachable)
        }
        try await OurClient.of(.go, credential: .intruder) { ours in
            let failure = try await ours.refusal(nobody)
            #expect(failure.response?.status == 403)
            #expect(failure.error.code == .denied)
        }
    }

    @Test("our client, Go's server: 250 tunnels on one connection, then a second one")
    func serverLimit() async throws {
        try await OurClient.of(.go) { try await $0.limit(250) }
    }

    @Test("our client, Go's server: GOAWAY costs no stream")
    func serverDrains() async throws {
        try await OurClient.of(.go) { ours in
            let echo = try EchoServer()
            try await ours.drains {
                // Go says goodbye with the answer to a request.
                try ours.peer.send("goaway")
                try await eventually("GOAWAY") {
                    let stream = try await ours.open(echo.authority)
                    try await ours.user { $0.streams[stream].send("", finish: true) }
                    try await ours.ended(stream)
                    return try await ours.user { $0.draining > 0 }
                }
            }
            echo.close()
        }
    }

    // MARK: Go is the client

    @Test("Go's client, our server: bytes up, down and both ways, and true half-close")
    func client() async throws {
        try await OurServer.of(.go) { ours in
            #expect(try await ours.peer.event("connected").peer == "spiffe://mesh.example/ns/prod/sa/server")
            try await ours.moves(Self.bytes)
            try await ours.endsFirst(Self.bytes)
        }
    }

    @Test("Go's client, our server: a reset is a reset, in both directions")
    func clientResets() async throws {
        try await OurServer.of(.go) { ours in
            #expect(try await ours.backendAborts().code == 10)
            let (ending, result) = try await ours.clientAborts(6, "reset 6 8")
            #expect(ending == .broken(104))
            #expect(result.failure?.code == .reset)
        }
    }

    @Test("Go's client, our server: refusals by status")
    func clientIsRefused() async throws {
        try await OurServer.of(.go) { ours in
            try ours.peer.send("open 1 127.0.0.1:\(FreePort.next())")
            #expect(try await ours.peer.event("response", 1).status == 503)
            try await ours.server { $0.rejection = .denied("policy") }
            try ours.peer.send("open 2 127.0.0.1:1")
            #expect(try await ours.peer.event("response", 2).status == 403)
        }
    }

    @Test("Go's client, our server: 250 tunnels on one connection, and our GOAWAY costs none")
    func clientInParallel() async throws {
        try await OurServer.of(.go) { try await $0.parallel(250, bytes: 10_000) }
        try await OurServer.of(.go) { try await $0.drains() }
    }

    // MARK: Refusals by another TLS

    @Test(
        "Go's TLS is told why our server refuses its certificate",
        arguments: [
            (.rogue, "unknown certificate authority"), (.foreign, "unknown certificate authority"),
            (.expired, "expired certificate"), (.notYetValid, "expired certificate"), (.twoSANs, "bad certificate"),
        ] as [(TestCertificates.Kind, String)]
    )
    func certificates(_ kind: TestCertificates.Kind, _ alert: String) async throws {
        // foreign trusts another root and would refuse us first; it borrows the client's.
        let directory = TemporaryDirectory()
        let certificates = TestCertificates.shared
        let files: [(String, TestCertificates.Kind)] = [
            ("key.pem", kind), ("cert-chain.pem", kind), ("root-cert.pem", .client),
        ]
        for (file, from) in files {
            try FileManager.default.copyItem(
                atPath: "\(certificates.path(from))/\(file)",
                toPath: directory.path(file)
            )
        }
        try await withLoop { loop in
            let server = try await OnLoop(loop) { try RelayingServer(on: loop) }
            let port = try await server { $0.port }
            let process = try await InteropPeer.Program.go.start(["client", String(port), directory.path])
            let peer = InteropPeer(process: process)
            // With TLS 1.3 its own handshake is over before we have seen its certificate; it learns by its first read.
            try await peer.event("connected")
            try? peer.send("open 1 127.0.0.1:1")
            let reset = try await peer.event("reset", 1)
            #expect(reset.reason?.contains(alert) == true, "\(reset.reason ?? "")")
            try await server.until("the server counts it") { $0.server?.failedHandshakes == 1 }
            await peer.stop()
            try await server { $0.close() }
        }
    }
}

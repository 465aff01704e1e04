import MeshIdentity
import Streams
import TestPeers
import Testing

@testable import H2Transport

/// Against TLS that is not ours: OpenSSL's own programs and Python's `ssl`.
@Suite(.timeLimit(.minutes(10)))
struct TLSInteropTests {
    private let certificates = TestCertificates.shared

    /// Serves one connection with our server while `body` runs a client against its port.
    private func serve(
        _ side: TLSSide = .server,
        _ body: (UInt16) async throws -> Void
    ) async throws -> TLSOutcome {
        try await withLoop { loop in
            let (outcomes, continuation) = AsyncStream.makeStream(of: TLSOutcome.self)
            let listener = try await loop.execute {
                let listener = try Listener(bind: SocketAddress(ip: "127.0.0.1", port: 0), on: loop) { socket in
                    do {
                        try side.run(over: socket, .server) { continuation.yield($0) }
                    } catch {
                        continuation.finish()
                    }
                }
                return LoopBound(listener, on: loop)
            }
            try await body(try await loop.execute { listener.withValue { $0.localAddress.port } })
            var iterator = outcomes.makeAsyncIterator()
            let outcome = try #require(await iterator.next())
            try await loop.execute { listener.withValue { $0.close() } }
            return outcome
        }
    }

    /// Runs our client against a server on this port.
    private func dial(_ port: UInt16, _ side: TLSSide = .client) async throws -> TLSOutcome {
        try await withLoop { loop in
            let socket = try await Dialer.connect(to: .address(SocketAddress(ip: "127.0.0.1", port: port)), on: loop) {
                LoopBound($0, on: loop)
            }
            return try await withCheckedThrowingContinuation { continuation in
                loop.submit {
                    do {
                        try socket.withValue { try side.run(over: $0, .client) { continuation.resume(returning: $0) } }
                    } catch {
                        continuation.resume(throwing: error)
                    }
                }
            }
        }
    }

    private func files(_ kind: TestCertificates.Kind) -> [String] {
        let path = certificates.path(kind)
        return ["-cert", "\(path)/cert-chain.pem", "-cert_chain", "\(path)/cert-chain.pem", "-key", "\(path)/key.pem"]
    }

    private var trust: [String] { ["-CAfile", certificates.caPath("root"), "-verify_return_error"] }

    // MARK: openssl s_client

    @Test func opensslClient() async throws {
        // Not sooner: s_client leaves with what is on its standard input when the server ends.
        let job = Endpoint.Job(bytesToSend: 100_000, finishesAfterReading: 6)
        let outcome = try await serve(.server.with { $0.job = job }) { port in
            let client = try ChildProcess(
                "openssl",
                ["s_client", "-connect", "127.0.0.1:\(port)", "-alpn", "istio,h2"] + files(.client) + trust,
                keepsInputOpen: true
            )
            try client.write("hello\n")
            try await eventually("everything has come") { client.standardOutput.bytes.count > 100_000 }
            client.closeInput()
            #expect(try await client.exit() == .exited(0))
            let text = String(decoding: client.standardOutput.bytes, as: UTF8.self)
            // Our order of ciphers, not the client's, which has AES-256 first.
            #expect(text.contains("New, TLSv1.3, Cipher is TLS_AES_128_GCM_SHA256"))
            #expect(text.contains("ALPN protocol: h2"))
            #expect(text.contains("Verification: OK"))
            #expect(!text.contains("New Session Ticket"))
        }
        #expect(outcome.peer?.identity?.description == "spiffe://mesh.example/ns/prod/sa/client")
        #expect(outcome.endpoint?.received == 6)
        #expect(outcome.endpoint?.checksum == Checksum.of(Array("hello\n".utf8)))
        #expect(outcome.endpoint?.ending == .end)
    }

    @Test(arguments: [
        (["-tls1_2"], true, StreamError.Code.protocolViolation, "does not speak TLS 1.3", "alert protocol version"),
        ([], false, .authentication, "sent no certificate", "alert certificate required"),
        (
            ["-alpn", "http/1.1"], true, .protocolViolation, "offered only application protocols",
            "alert no application protocol"
        ),
    ])
    func opensslClientIsRefused(
        options: [String],
        withCertificate: Bool,
        code: StreamError.Code,
        reason: String,
        alert: String
    ) async throws {
        let outcome = try await serve { port in
            let client = try ChildProcess(
                "openssl",
                ["s_client", "-connect", "127.0.0.1:\(port)"] + options + (withCertificate ? files(.client) : [])
                    + trust,
                keepsInputOpen: true
            )
            // s_client reports an alert that follows its handshake only when it reads.
            try await eventually("the alert arrives") { client.standardError.text.contains(alert) }
            client.closeInput()
            try await client.exit()
        }
        #expect(outcome.refusal?.code == code)
        #expect(outcome.refusal?.message.contains(reason) == true, "\(outcome.refusal?.message ?? "")")
    }

    /// Certificates that each side refuses, with the start of its reason and the alert that the other is told.
    static let refused: [(TestCertificates.Kind, String, String)] = [
        (.rogue, "is not signed by a root of mesh.example", "alert unknown ca"),
        (.foreign, "trust domain other.example, which is not trusted here", "alert unknown ca"),
        (.twoSANs, "2 URI", "alert bad certificate"),
        (.expired, "expired 3 h", "alert certificate expired"),
        (.notYetValid, "is not valid before", "alert certificate expired"),
        (.nextRoot, "is not signed by a root of mesh.example", "alert unknown ca"),
    ]

    @Test(arguments: refused)
    func opensslClientHasABadCertificate(kind: TestCertificates.Kind, reason: String, alert: String) async throws {
        let outcome = try await serve { port in
            let client = try ChildProcess(
                "openssl",
                ["s_client", "-connect", "127.0.0.1:\(port)", "-alpn", "h2"] + files(kind) + trust,
                keepsInputOpen: true
            )
            try await eventually("the alert arrives") { client.standardError.text.contains(alert) }
            client.closeInput()
            try await client.exit()
        }
        #expect(outcome.refusal?.code == .authentication)
        #expect(outcome.refusal?.message.contains(reason) == true, "\(outcome.refusal?.message ?? "")")
    }

    /// While a root is replaced, both are trusted, on both sides.
    @Test func twoRootsOverlap() async throws {
        let overlap = try TrustBundleSet(
            TrustBundle(
                trustDomain: TrustDomain("mesh.example"),
                roots: [certificates.ca("root"), certificates.ca("nextRoot")]
            )
        )
        let outcome = try await serve(.server.with { ($0.trust, $0.job.keepsOpen) = (overlap, true) }) { port in
            let client = try ChildProcess(
                "openssl",
                ["s_client", "-connect", "127.0.0.1:\(port)", "-alpn", "h2"] + files(.nextRoot) + trust,
                keepsInputOpen: true
            )
            try client.write("hello\n")
            _ = try await client.standardOutput.line(containing: "Verification: OK")
            client.closeInput()
            #expect(try await client.exit() == .exited(0))
        }
        #expect(outcome.endpoint?.received == 6)
        #expect(outcome.endpoint?.ending == .end)

        // The other way round: our client trusts both and meets a server that has the new one already.
        let roots = ["-CAfile", "\(certificates.path(.nextRoot))/root-cert.pem"]
        let (server, port) = try await opensslServer(files(.nextRoot) + roots)
        let dialled = try await dial(port, .client.with { $0.trust = overlap })
        #expect(dialled.peer?.identity?.description == "spiffe://mesh.example/ns/prod/sa/client")
        #expect(dialled.failure == nil)
        await server.stop()
    }

    // MARK: openssl s_server

    /// Starts a server that sends each line back reversed.
    private func opensslServer(_ options: [String]) async throws -> (ChildProcess, UInt16) {
        let port = FreePort.next()
        let server = try ChildProcess(
            "openssl",
            ["s_server", "-accept", "127.0.0.1:\(port)", "-Verify", "3", "-rev"] + trust + options
        )
        _ = try await server.standardOutput.line(containing: "ACCEPT")
        return (server, port)
    }

    @Test func opensslServer() async throws {
        let (server, port) = try await opensslServer(files(.server) + ["-alpn", "h2"])
        let reply = try await withLoop { loop in
            let socket = try await Dialer.connect(to: .address(SocketAddress(ip: "127.0.0.1", port: port)), on: loop) {
                LoopBound($0, on: loop)
            }
            return try await withCheckedThrowingContinuation { (continuation: CheckedContinuation<String, any Error>) in
                loop.submit {
                    do {
                        let stream = try socket.withValue { try TLSSide.client.stream(over: $0, .client) }
                        stream.startHandshake { result in
                            do {
                                #expect(try result.get().applicationProtocol == "h2")
                                #expect(stream.say("hello\n") == .bytes(6))
                                let listening = Listening(stream) { continuation.resume(returning: $0) }
                                stream.observer = listening
                                listening.start()
                            } catch {
                                continuation.resume(throwing: error)
                            }
                        }
                    } catch {
                        continuation.resume(throwing: error)
                    }
                }
            }
        }
        #expect(reply == "olleh\n")
        await server.stop()
    }

    @Test func opensslServerWithoutTLS13() async throws {
        let (server, port) = try await opensslServer(files(.server) + ["-tls1_2"])
        let outcome = try await dial(port)
        #expect(outcome.refusal?.code == .protocolViolation)
        #expect(
            outcome.refusal?.message.contains("does not speak TLS 1.3") == true,
            "\(outcome.refusal?.message ?? "")"
        )
        await server.stop()
    }

    @Test(arguments: refused)
    func opensslServerHasABadCertificate(kind: TestCertificates.Kind, reason: String, alert: String) async throws {
        let (server, port) = try await opensslServer(files(kind))
        let outcome = try await dial(port)
        #expect(outcome.refusal?.code == .authentication)
        #expect(outcome.refusal?.message.contains(reason) == true, "\(outcome.refusal?.message ?? "")")
        try await eventually("the alert arrives") { server.standardError.text.contains(alert) }
        await server.stop()
    }

    /// The client has finished its handshake when the server refuses its certificate; the reason comes with the first
    /// read.
    @Test(arguments: [
        (TestCertificates.Kind.rogue, "refused our certificate: unknown_ca ("),
        (.foreign, "refused our certificate: unknown_ca ("),
        (.expired, "refused our certificate: certificate_expired ("),
        // OpenSSL's word for a certificate that is not valid yet.
        (.notYetValid, "refused our certificate: bad_certificate ("),
        (.nextRoot, "refused our certificate: unknown_ca ("),
    ])
    func opensslServerRefusesUs(kind: TestCertificates.Kind, reason: String) async throws {
        let (server, port) = try await opensslServer(files(.server))
        let outcome = try await dial(
            port,
            .client.with {
                $0.credential = kind
                // s_server closes at once: over bytes that it has not read, its RST may overtake the alert.
                $0.job.keepsOpen = true
            }
        )
        #expect(outcome.peer != nil)
        #expect(outcome.failure?.code == .authentication)
        #expect(outcome.failure?.message.contains(reason) == true, "\(outcome.failure?.message ?? "")")
        await server.stop()
    }

    // MARK: Python

    /// Sends `size` bytes, reads `size` bytes, then ends as asked. Prints what it read.
    private static let python = """
        import hashlib, socket, ssl, sys, threading
        mode, port, path, root, size, ending = sys.argv[1:7]
        size = int(size)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if mode == "server" else ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(path + "/cert-chain.pem", path + "/key.pem")
        context.load_verify_locations(root)
        context.set_alpn_protocols(["h2"])
        if mode == "server":
            listener = socket.create_server(("127.0.0.1", int(port)))
            print("listening", flush=True)
            connection = listener.accept()[0]
        else:
            connection = socket.create_connection(("127.0.0.1", int(port)))
        tls = context.wrap_socket(connection, server_side=mode == "server", suppress_ragged_eofs=False)
        alpn = tls.selected_alpn_protocol()
        data = bytes(range(251)) * (size // 251 + 1)
        tls.sendall(data[:size])
        digest, count = hashlib.sha256(), 0
        while True:
            piece = tls.recv(100000)
            if not piece:
                break
            digest.update(piece)
            count += len(piece)
        if ending == "close":
            connection = tls.unwrap()
        print(count, digest.hexdigest(), alpn, flush=True)
        if ending == "vanish":
            tls.close()
        """

    private static func sent(_ size: Int) -> [UInt8] { (0..<size).map { UInt8($0 % 251) } }

    private func pythonArguments(
        _ mode: String,
        _ port: UInt16,
        _ kind: TestCertificates.Kind,
        _ ending: String
    ) -> [String] {
        [
            "-c", Self.python, mode, "\(port)", certificates.path(kind), certificates.caPath("root"), "200000", ending,
        ]
    }

    @Test func pythonClient() async throws {
        let outcome = try await serve(.server.with { $0.job = .init(bytesToSend: 3_000_000) }) { port in
            let output = try await ChildProcess.run("python3", pythonArguments("client", port, .client, "close"))
            #expect(output.standardOutput == "3000000 \(Endpoint.checksum(3_000_000)) h2\n", "\(output.standardError)")
        }
        #expect(outcome.endpoint?.ending == .end)
        #expect(outcome.endpoint?.checksum == Checksum.of(Self.sent(200_000)))
    }

    @Test func pythonServer() async throws {
        let port = FreePort.next()
        let server = try ChildProcess("python3", pythonArguments("server", port, .server, "close"))
        _ = try await server.standardOutput.line(containing: "listening")
        let outcome = try await dial(port, .client.with { $0.job = .init(bytesToSend: 3_000_000) })
        #expect(outcome.peer?.identity?.description == "spiffe://mesh.example/ns/prod/sa/server")
        #expect(outcome.endpoint?.ending == .end)
        #expect(outcome.endpoint?.checksum == Checksum.of(Self.sent(200_000)))
        #expect(try await server.exit() == .exited(0))
        #expect(try await server.standardOutput.complete().contains("3000000 \(Endpoint.checksum(3_000_000)) h2"))
    }

    /// A peer that closes its socket without close_notify has not ended cleanly, though all it sent has come.
    @Test func pythonVanishes() async throws {
        let outcome = try await serve(.server.with { $0.job = .init(bytesToSend: 10_000) }) { port in
            let output = try await ChildProcess.run("python3", pythonArguments("client", port, .client, "vanish"))
            #expect(output.succeeded, "\(output.standardError)")
        }
        #expect(outcome.endpoint?.received == 200_000)
        #expect(outcome.failure?.code == .truncated)
    }
}

/// Reads one reply, then ends the stream.
private final class Listening: StreamObserver {
    private let stream: ByteStream
    private var reply = ""
    private var completion: ((String) -> Void)?
    private var itself: Listening?

    init(_ stream: ByteStream, completion: @escaping (String) -> Void) {
        self.stream = stream
        self.completion = completion
    }

    func start() {
        itself = self
        read()
    }

    func streamReadable(_ stream: ByteStream) { read() }
    func streamWritable(_ stream: ByteStream) {}
    func streamFailed(_ stream: ByteStream) { done("failed: \(stream.failure?.message ?? "")") }

    private func read() {
        while true {
            let (text, result) = stream.hear()
            reply += text
            switch result {
            case .bytes where reply.hasSuffix("\n"): return done(reply)
            case .bytes: break
            case .wouldBlock: return
            case .end, .failed: return done("ended: \(stream.failure?.message ?? "")")
            }
        }
    }

    private func done(_ text: String) {
        stream.finish()
        stream.close()
        completion?(text)
        completion = nil
        itself = nil
    }
}

import H2Transport
import MeshIdentity
import Platform
import Streams
import TestPeers
import Testing

/// What the listener asks before it answers, and how it stops.
@Suite(.timeLimit(.minutes(10))) struct HBONEListenerTests {
    static func source(_ kind: TestCertificates.Kind) -> CredentialSource {
        .directory(TestCertificates.shared.path(kind))
    }

    @Test("the hook sees the verified peer, the destination and the metadata; the client the answer's fields")
    func admission() async throws {
        let requests = Notes<HBONERequest>()
        let admit: HBONEAdmissionHook = { request in
            requests.add(request)
            return .admit(headers: ["baggage": "k8s.cluster.name=east"])
        }
        try await MeshPair.with(
            admit: admit,
            handler: MeshPair.echo
        ) { pair in
            let headers: HeaderFields = [
                "baggage": "app=shop", "traceparent": "00-ab-cd-01", "forwarded": "for=10.1.2.3",
            ]
            try await pair.withStream(headers: headers) { stream in
                #expect(stream.peer.description == "spiffe://mesh.example/ns/prod/sa/server")
                #expect(stream.response.headers["baggage"] == "k8s.cluster.name=east")
                #expect(stream.request.authority == "echo.example:7")
                #expect(stream.remoteAddress == pair.listener.localAddress)
            }
            let seen = requests.all
            #expect(seen.count == 1)
            #expect(seen.first?.peer.description == "spiffe://mesh.example/ns/prod/sa/client")
            #expect(seen.first?.destination == pair.authority)
            #expect(seen.first?.request.baggage == "app=shop")
            #expect(seen.first?.request.traceparent == "00-ab-cd-01")
            #expect(seen.first?.request.forwarded == "for=10.1.2.3")
            #expect(seen.first?.remoteAddress?.isLoopback == true)
        }
    }

    @Test("the handler's stream knows peer and request")
    func handlerSees() async throws {
        let seen = Notes<String>()
        try await MeshPair.with { stream in
            seen.add("\(stream.peer) \(stream.request.authority) \(stream.request.baggage ?? "-")")
        } body: { pair in
            try await pair.withStream(headers: ["baggage": "a=b"]) { stream in
                let end = try await stream.read()
                #expect(end == nil)
            }
            #expect(seen.all == ["spiffe://mesh.example/ns/prod/sa/client echo.example:7 a=b"])
        }
    }

    @Test("a request for a tunnel with TLS inside is refused before anybody is asked: nobody here speaks that")
    func innerTunnel() async throws {
        let asked = Notes<HBONERequest>()
        let admit: HBONEAdmissionHook = { request in
            asked.add(request)
            return .admit
        }
        try await MeshPair.with(admit: admit, handler: MeshPair.echo) { pair in
            let failure = await #expect(throws: ConnectFailure.self) {
                try await pair.withStream(headers: ["x-tun": "127.0.0.1:22"]) { _ in }
            }
            #expect(failure?.response?.status == 400)
            #expect(failure?.error.message.contains("x-tun") == true)
            #expect(asked.all.isEmpty)
        }
    }

    @Test("a refusal reaches the client with status and reason, and no handler runs")
    func refusal() async throws {
        let handled = Notes<Void>()
        try await MeshPair.with(
            admit: { request in
                request.destination.port == 7
                    ? .deny("not to the echo port") : .refuse(ConnectRejection(status: 503))
            },
            handler: { _ in handled.add(()) },
            body: { pair in
                var failure = await #expect(throws: ConnectFailure.self) { try await pair.withStream { _ in } }
                #expect(failure?.error.code == .denied)
                #expect(failure?.response?.status == 403)
                #expect(failure?.error.message.contains("not to the echo port") == true)
                failure = await #expect(throws: ConnectFailure.self) {
                    try await pair.client.withStream(to: Authority(parsing: "x:8"), through: pair.peer) { _ in }
                }
                #expect(failure?.response?.status == 503)
                #expect(handled.all.isEmpty)
            }
        )
    }

    @Test(
        "without a hook only the own namespace is admitted",
        arguments: [(TestCertificates.Kind.client, true), (.intruder, false)]
    )
    func defaultAdmission(_ kind: TestCertificates.Kind, isAdmitted: Bool) async throws {
        try await MeshPair.with(
            client: Self.source(kind),
            expecting: .anyTrusted,
            handler: MeshPair.echo
        ) { pair in
            do {
                try await pair.withStream { stream in
                    try await stream.write("a")
                    #expect(try await stream.read() == [97])
                }
                #expect(isAdmitted)
            } catch let failure as ConnectFailure {
                #expect(!isAdmitted && failure.error.code == .denied && failure.response?.status == 403)
            }
        }
    }

    @Test("a server that is not whom the client expects is refused in the handshake")
    func wrongServer() async throws {
        let admit: HBONEAdmissionHook = { _ in .admit }
        try await MeshPair.with(
            server: Self.source(.intruder),
            admit: admit,
            handler: MeshPair.echo
        ) { pair in
            let failure = await #expect(throws: ConnectFailure.self) { try await pair.withStream { _ in } }
            #expect(failure?.error.code == .authentication)
            #expect(failure?.response == nil)
            // The same server, named.
            let peer = HBONEPeer(pair.peer.address, expecting: .identities([pair.listener.identity]))
            try await pair.client.withStream(to: pair.authority, through: peer) { _ in }
        }
    }

    @Test("a foreign trust domain needs its bundle, on both sides")
    func foreignBundle() async throws {
        let certificates = TestCertificates.shared
        var (client, server) = (Self.source(.foreign), Self.source(.server))
        client.foreignBundles = [try certificates.bundle()]
        let foreign = try CredentialDirectory(certificates.path(.foreign)).load()
        server.foreignBundles = [foreign.bundle]
        let admit: HBONEAdmissionHook = { $0.peer == foreign.id ? .admit : .deny() }
        try await MeshPair.with(
            client: client,
            server: server,
            expecting: .anyTrusted,
            admit: admit,
            handler: MeshPair.echo
        ) { pair in
            try await pair.withStream { stream in
                try await stream.write("a")
                #expect(try await stream.read() == [97])
            }
        }
    }

    @Test("nobody listens there")
    func refusedConnection() async throws {
        try await MeshPair.with(handler: MeshPair.echo) { pair in
            await pair.listener.close()
            let failure = await #expect(throws: ConnectFailure.self) { try await pair.withStream { _ in } }
            #expect(failure?.error.code == .refused)
        }
    }

    @Test("a drain lets open streams end and takes no new ones")
    func drain() async throws {
        try await MeshPair.with(handler: MeshPair.echo) { pair in
            try await pair.withStream { stream in
                try await stream.write("before")
                #expect(try await stream.read() == Array("before".utf8))
                async let drained: Void = pair.listener.drain(deadline: .seconds(60))
                async let again: Void = pair.listener.drain(deadline: .seconds(60))
                try await eventually("new streams are refused") {
                    do {
                        try await pair.withStream { _ in }
                        return false
                    } catch is ConnectFailure {
                        return true
                    }
                }
                try await stream.write("after")
                try await stream.finish()
                #expect(try await stream.readText() == "after")
                _ = await (drained, again)
            }
        }
    }

    @Test("what is open at a drain's deadline is cut")
    func drainDeadline() async throws {
        try await MeshPair.with(handler: MeshPair.echo) { pair in
            let error = await #expect(throws: StreamError.self) {
                try await pair.withStream { stream in
                    try await stream.write("x")
                    _ = try await stream.read()
                    let draining = Task { await pair.listener.drain(deadline: .milliseconds(50)) }
                    do { _ = try await stream.readAll() } catch {
                        await draining.value
                        throw error
                    }
                }
            }
            #expect(error?.code == .truncated || error?.code == .reset)
        }
    }

    @Test("cancelling the task that serves cuts the streams and returns")
    func cancelServing() async throws {
        let listener = try await HBONEListener(
            bind: SocketAddress(ip: "127.0.0.1", port: 0),
            credentials: Self.source(.server)
        )
        let client = try await HBONEClient(credentials: Self.source(.client))
        let serving = Task { await listener.serve(handler: MeshPair.echo) }
        let peer = HBONEPeer(try Authority(host: "127.0.0.1", port: listener.localAddress.port))
        await #expect(throws: StreamError.self) {
            try await client.withStream(to: peer.address, through: peer) { stream in
                try await stream.write("x")
                _ = try await stream.read()
                serving.cancel()
                _ = try await stream.readAll()
            }
        }
        await serving.value
        await client.shutDown()
        await client.shutDown()
    }

    @Test("a client that was shut down says so")
    func shutDown() async throws {
        try await MeshPair.with(handler: MeshPair.echo) { pair in
            try await pair.withStream { _ in }
            await pair.client.shutDown()
            let failure = await #expect(throws: ConnectFailure.self) { try await pair.withStream { _ in } }
            #expect(failure?.error.code == .closed)
        }
    }

    @Test("a renewed credential is used for new connections, a broken one is not", arguments: ["client", "server"])
    func renewal(_ side: String) async throws {
        let directory = TemporaryDirectory()
        let certificates = TestCertificates.shared
        let identity = CredentialDirectory(directory.path("identity"))
        let before = try CredentialDirectory(certificates.path(side == "client" ? .client : .server)).load()
        let after = try CredentialDirectory(certificates.path(.intruder)).load()
        try identity.write(before)
        let source = CredentialSource.directory(identity.path)
        let admit: HBONEAdmissionHook = { .admit(headers: ["x-peer": $0.peer.description]) }
        try await MeshPair.with(
            client: side == "client" ? source : Self.source(.client),
            server: side == "client" ? Self.source(.server) : source,
            expecting: .anyTrusted,
            admit: admit,
            handler: MeshPair.echo
        ) { pair in
            // A client of its own each time: a connection that stands keeps its certificate.
            func seen() async throws -> SPIFFEID? {
                let client = try await HBONEClient(credentials: Self.source(.client))
                defer { Task { await client.shutDown() } }
                let user = side == "client" ? pair.client : client
                return try await user.withStream(to: pair.authority, through: pair.peer) { stream in
                    side == "client"
                        ? try stream.response.headers["x-peer"].map { try SPIFFEID($0) } : stream.peer
                }
            }
            #expect(try await seen() == before.id)
            try identity.write(after)
            try await eventually("the new certificate is shown") { try await seen() == after.id }
            try directory.write("identity/..data/cert-chain.pem", "no certificate")
            // Long enough for the files to be looked at again: the third credential is taken after the broken one.
            #expect(try await seen() == after.id)
            try identity.write(before)
            try await eventually("a good one is taken after a broken one") { try await seen() == before.id }
        }
    }
}

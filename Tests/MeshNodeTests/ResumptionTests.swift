import Foundation
import H2Transport
import Logging
import MeshIdentity
import Platform
import Streams
import TestPeers
import Testing

@testable import MeshNode
@testable import MeshPaths

/// Streams between two nodes outlive the connection that carries them, and the programs at their ends do not notice.
@Suite(.timeLimit(.minutes(10))) struct ResumptionTests {
    /// A server node, a client node, and between them a link that can be cut.
    private final class Bench: Sendable {
        let directory = TemporaryDirectory()
        let server: Node
        let client: Node
        let link: CuttingLink
        let entry: UInt16
        let serverLog = LogRecorder()
        let clientLog = LogRecorder()

        init(
            to backend: UInt16,
            loops: Int = 1,
            linkHost: String = "127.0.0.1",
            serverSettings: String = "connections: {resumable: true}",
            clientSettings: String = "connections: {resumable: true}",
            endpoint: String = "  resumable: true"
        ) async throws {
            let certificates = TestCertificates.shared
            let serverFile = try directory.write(
                "server.yaml",
                NodeFile.server(identity: certificates.path(.server), ports: [backend]) + "\n\(serverSettings)\n"
            )
            server = Node(try NodeConfiguration.load(serverFile), loops: loops, logger: serverLog.logger)
            let hbone = try #require(try await server.start().first).address.port
            link = try CuttingLink(to: hbone, host: linkHost, port: linkHost == "127.0.0.1" ? nil : hbone)
            let clientFile = try directory.write(
                "client.yaml",
                """
                identity: \(certificates.path(.client))
                listeners:
                - {name: in, bind: "127.0.0.1:0", protocol: tcp, forwardTo: "127.0.0.1:\(backend)"}
                endpoints:
                - match: "127.0.0.1:\(backend)"
                  hbone: "\(linkHost):\(link.port)"
                  identity: "spiffe://mesh.example/ns/prod/sa/server"
                \(endpoint)
                \(clientSettings)
                """
            )
            client = Node(try NodeConfiguration.load(clientFile), loops: 1, logger: clientLog.logger)
            entry = try #require(try await client.start().first).address.port
        }

        func stop() async {
            await client.drain(deadline: .seconds(1))
            await server.drain(deadline: .seconds(1))
            link.close()
        }

        /// Streams that wait for a carrier, on both sides.
        var detached: Int { client.resumptions.detached + server.resumptions.detached }
        var held: Int { client.resumptions.held + server.resumptions.held }
    }

    @Test("200 streams of random traffic, whose connection is cut again and again", arguments: [1, 2])
    func crowd(loops: Int) async throws {
        let backend = try EchoServer()
        let bench = try await Bench(to: backend.port, loops: loops)
        // All of them are there before the first cut: a request that has no answer is repeated four times at most.
        let streams = try await withThrowingTaskGroup(of: TCPConversation.self) { group in
            for _ in 0..<200 {
                group.addTask {
                    let stream = try await TCPConversation(port: bench.entry)
                    #expect(try await stream.echo([7]) == [7])
                    return stream
                }
            }
            return try await group.reduce(into: []) { $0.append($1) }
        }
        bench.link.cut(every: 5_000_000)
        try await withThrowingTaskGroup(of: Void.self) { group in
            for (number, stream) in streams.enumerated() {
                group.addTask {
                    let sent = Pattern.bytes(1 + (number * 7_919) % 220_000, seed: UInt64(number))
                    let received = try await stream.echo(sent)
                    #expect(Checksum.of(received) == Checksum.of(sent), "stream \(number)")
                    let (rest, ending) = try await stream.end()
                    #expect(ending == .endOfStream && rest == 0, "stream \(number): \(rest) bytes after the last")
                }
            }
            try await group.waitForAll()
        }
        print("200 streams, \(bench.link.cuts) cuts")
        #expect(bench.link.cuts >= 3)
        bench.link.cut(every: .max)
        try await eventually("nothing is kept of streams that are over") { bench.held == 0 }
        // The loss of a carrier is no fault of the peer, on whichever event loop the next one is.
        #expect(!bench.serverLog.lines.contains { $0.contains("broke the protocol") })
        await bench.stop()
    }

    @Test("bulk, which is kept where it was sent from, outlives cuts byte for byte") func bulk() async throws {
        let backend = try EchoServer()
        let bench = try await Bench(to: backend.port)
        let streams = [try await TCPConversation(port: bench.entry), try await TCPConversation(port: bench.entry)]
        for stream in streams { #expect(try await stream.echo([7]) == [7]) }
        bench.link.cut(every: 4_000_000)
        try await withThrowingTaskGroup(of: Void.self) { group in
            for (number, stream) in streams.enumerated() {
                group.addTask {
                    let sent = Pattern.bytes(12_000_000, seed: UInt64(number))
                    #expect(Checksum.of(try await stream.echo(sent)) == Checksum.of(sent), "stream \(number)")
                    let (rest, ending) = try await stream.end()
                    #expect(ending == .endOfStream && rest == 0)
                }
            }
            try await group.waitForAll()
        }
        #expect(bench.link.cuts >= 3)
        bench.link.cut(every: .max)
        try await eventually("nothing is kept of streams that are over") { bench.held == 0 }
        await bench.stop()
    }

    /// What the streams of a connection keep together is little, and those that do not read have most of it.
    @Test("a stream goes on beside others of its connection whose readers take nothing") func besideStalled()
        async throws
    {
        let size = 20 << 20
        let source = try SourceServer(count: size)
        let bench = try await Bench(to: source.port)
        var stalled: [TCPConversation] = []
        for _ in 0..<8 {
            let conversation = try await TCPConversation(port: bench.entry)
            conversation.resetWhenGone()
            stalled.append(conversation)
        }
        try await eventually("their ways are full") { bench.server.resumptions.held > 4 << 20 }
        for _ in 0..<2 {
            let conversation = try await TCPConversation(port: bench.entry)
            let (received, ending) = try await conversation.end(finishing: false)
            #expect(received == size && ending == .endOfStream)
            _ = try await conversation.end()
            bench.link.cut()
        }
        stalled = []
        try await eventually("nothing is kept of streams that are over", within: .seconds(20)) { bench.held == 0 }
        await bench.stop()
    }

    @Test("an idle stream, and one that has ended in one direction, outlive a cut") func idleAndHalfClosed()
        async throws
    {
        let backend = try EchoServer()
        let bench = try await Bench(to: backend.port)
        let conversation = try await TCPConversation(port: bench.entry)
        #expect(try await conversation.echo([1, 2, 3]) == [1, 2, 3])
        for round in 0..<5 {
            bench.link.cut()
            let start = ContinuousClock.now
            #expect(try await conversation.echo(Pattern.bytes(50_000, seed: 9)) == Pattern.bytes(50_000, seed: 9))
            print("round \(round): 50,000 bytes there and back \(ContinuousClock.now - start) after the cut")
        }
        let (_, ending) = try await conversation.end()
        #expect(ending == .endOfStream)
        await bench.stop()

        // The far side ends first.
        let source = try SourceServer(count: 300_000)
        let other = try await Bench(to: source.port)
        let half = try await TCPConversation(port: other.entry)
        let (received, first) = try await half.end(finishing: false)
        #expect(received == 300_000 && first == .endOfStream)
        other.link.cut()
        let (rest, second) = try await half.end()
        #expect(rest == 0 && second == .endOfStream)
        try await eventually("the backend reads the end") { source.transfers.first?.ending == .endOfStream }
        await other.stop()
    }

    /// Nothing ends the connection within the time limit of this suite: only that it does not answer.
    @Test("streams leave a connection that has fallen silent") func blackHole() async throws {
        let backend = try EchoServer()
        let bench = try await Bench(
            to: backend.port,
            clientSettings: "connections: {resumable: true, keepAlive: 1h, keepAliveTimeout: 1h}"
        )
        let streams = try await [
            TCPConversation(port: bench.entry), TCPConversation(port: bench.entry), TCPConversation(port: bench.entry),
        ]
        for stream in streams { #expect(try await stream.echo([1]) == [1]) }
        for round in 0..<2 {
            bench.link.silence()
            let start = ContinuousClock.now
            for (number, stream) in streams.enumerated() {
                let bytes = Pattern.bytes(50_000, seed: UInt64(number))
                let echoed = try await stream.echo(bytes)
                #expect(echoed == bytes, "stream \(number)")
            }
            print(
                "round \(round): 3 times 50,000 bytes there and back \(ContinuousClock.now - start) after the silence"
            )
        }
        for stream in streams {
            let (_, ending) = try await stream.end()
            #expect(ending == .endOfStream)
        }
        await bench.stop()
    }

    /// As where what a path goes through falls silent a moment after the path: the first attempt goes the same way.
    @Test("streams leave a connection that has fallen silent also where no path answers at first") func blackHoleAlone()
        async throws
    {
        let backend = try EchoServer()
        let bench = try await Bench(
            to: backend.port,
            serverSettings: "connections: {resumable: true, keepAlive: 1h, keepAliveTimeout: 1h}",
            clientSettings: "connections: {resumable: true, keepAlive: 1h, keepAliveTimeout: 1h}"
        )
        let stream = try await TCPConversation(port: bench.entry)
        #expect(try await stream.echo([1]) == [1])
        bench.link.closeListener()
        bench.link.silence()
        async let echoed = stream.echo([2])
        try await bench.clientLog.line(containing: "unreachable on every path")
        // Nobody else asks for a path meanwhile.
        try bench.link.reopen()
        #expect(try await echoed == [2])
        // That comes after half a minute.
        #expect(!bench.clientLog.lines.contains { $0.contains("given up") }, "the stream waited for its old connection")
        let (_, ending) = try await stream.end()
        #expect(ending == .endOfStream)
        await bench.stop()
    }

    /// Which may be a reason to move for either side.
    @Test("streams leave a connection that takes no more of them for the next one", arguments: ["client", "server"])
    func leftBehind(_ place: String) async throws {
        let backend = try EchoServer()
        let settings = "connections: {resumable: true, maximumAge: 1s}"
        let bench = try await Bench(
            to: backend.port,
            serverSettings: place == "server" ? settings : "connections: {resumable: true}",
            clientSettings: place == "client" ? settings : "connections: {resumable: true}"
        )
        let streams = try await [
            TCPConversation(port: bench.entry), TCPConversation(port: bench.entry), TCPConversation(port: bench.entry),
        ]
        for stream in streams { #expect(try await stream.echo([1]) == [1]) }
        // Where they stayed, there would be no more than two: that which they are on, and an idle one.
        try await eventually("five connections, one after the other") { bench.link.accepted >= 5 }
        for (number, stream) in streams.enumerated() {
            let bytes = Pattern.bytes(50_000, seed: UInt64(number))
            #expect(try await stream.echo(bytes) == bytes, "stream \(number)")
        }
        try await eventually("the last one is left") { bench.link.open == 1 }
        for stream in streams {
            let (_, ending) = try await stream.end()
            #expect(ending == .endOfStream)
        }
        #expect(backend.accepted == 3)
        await bench.stop()
    }

    @Test("a reset is a reset on the far side, also where it comes while there is no carrier") func resets()
        async throws
    {
        let backend = try EchoServer()
        let bench = try await Bench(to: backend.port)
        var conversation: TCPConversation? = try await TCPConversation(port: bench.entry)
        _ = try await conversation?.echo([1])
        bench.link.close()
        try await eventually("both sides know") { bench.detached == 2 }
        conversation?.resetWhenGone()
        conversation = nil
        try bench.link.reopen()
        try await eventually("the backend sees a reset") {
            backend.transfers.first.map { $0.ending != .endOfStream } ?? false
        }
        try await eventually("nothing is kept of it") { bench.detached == 0 }
        await bench.stop()
    }

    @Test("what nobody resumes in time is reset on both sides, never ended") func deadline() async throws {
        let backend = try EchoServer()
        let settings = "connections: {resumable: true, resumeTimeout: 500ms}"
        let bench = try await Bench(to: backend.port, serverSettings: settings, clientSettings: settings)
        let conversation = try await TCPConversation(port: bench.entry)
        _ = try await conversation.echo([1])
        bench.link.close()
        let (_, ending) = try await conversation.end(finishing: false)
        #expect(ending == .broken(ECONNRESET))
        try await eventually("the backend sees a reset") {
            backend.transfers.first?.ending == .broken(ECONNRESET)
        }
        try await eventually("nothing is kept of it") { bench.detached == 0 && bench.held == 0 }
        await bench.stop()
    }

    @Test(
        "switched off, on either side or for an endpoint, a cut is a reset",
        arguments: ["server", "client", "endpoint"]
    )
    func off(_ place: String) async throws {
        let backend = try EchoServer()
        let (on, off) = ("connections: {resumable: true}", "connections: {resumable: false}")
        let bench = try await Bench(
            to: backend.port,
            serverSettings: place == "server" ? off : on,
            clientSettings: place == "client" ? off : on,
            endpoint: "  resumable: \(place != "endpoint")"
        )
        let conversation = try await TCPConversation(port: bench.entry)
        #expect(try await conversation.echo([1]) == [1])
        bench.link.cut()
        let (_, ending) = try await conversation.end(finishing: false)
        #expect(ending == .broken(ECONNRESET))
        await bench.stop()
    }

    @Test("from h2 to h2-over-ssh and back") func otherPaths() async throws {
        let backend = try EchoServer()
        let sshd = try await OpenSSHServer()
        let bench = try await Bench(
            to: backend.port,
            linkHost: "127.0.0.9",
            endpoint: "  resumable: true\n\(try await sshd.endpointYAML())"
        )
        let conversation = try await TCPConversation(port: bench.entry)
        _ = try await conversation.echo([1])
        bench.link.close()
        let bytes = Pattern.bytes(100_000, seed: 3)
        var start = ContinuousClock.now
        #expect(try await conversation.echo(bytes) == bytes)
        print("from h2 to h2-over-ssh: \(ContinuousClock.now - start)")
        let lines = bench.clientLog.lines.count
        try bench.link.reopen()
        try await bench.clientLog.line(containing: "→ h2: ", after: lines)
        start = ContinuousClock.now
        #expect(try await conversation.echo(bytes) == bytes)
        print("back: \(ContinuousClock.now - start)")
        // The SSH server's end cuts nothing any more.
        await sshd.stop()
        #expect(try await conversation.echo(bytes) == bytes)
        let (_, ending) = try await conversation.end()
        #expect(ending == .endOfStream)
        await bench.stop()
    }

    @Test("where policy forbids the other path, that is what the end of the stream says") func forbidden() async throws
    {
        let backend = try EchoServer()
        let sshd = try await OpenSSHServer()
        let files = TemporaryDirectory()
        let log = files.path("access.log")
        let bench = try await Bench(
            to: backend.port,
            linkHost: "127.0.0.9",
            serverSettings: "    when: [{transport: [h2]}]",
            clientSettings: "connections: {resumable: true, resumeTimeout: 2s}\naccessLog: {file: \(log)}",
            endpoint: "  resumable: true\n\(try await sshd.endpointYAML())"
        )
        let conversation = try await TCPConversation(port: bench.entry)
        _ = try await conversation.echo([1])
        bench.link.close()
        let (_, ending) = try await conversation.end(finishing: false)
        #expect(ending == .broken(ECONNRESET))
        try await eventually("it is in the access log") {
            let text = (try? String(contentsOfFile: log, encoding: .utf8)) ?? ""
            return text.contains("policy does not allow it over h2-over-ssh") && text.contains("denied")
        }
        await sshd.stop()
        await bench.stop()
    }

    /// The login takes longest, and is begun before the connection is given up.
    @Test("from a silent h2 to h2-over-ssh, whose login was begun ahead") func loggedInAhead() async throws {
        let backend = try EchoServer()
        let sshd = try await OpenSSHServer()
        let bench = try await Bench(
            to: backend.port,
            linkHost: "127.0.0.10",
            clientSettings: "connections: {resumable: true, keepAlive: 1h, keepAliveTimeout: 1h}",
            endpoint: "  resumable: true\n\(try await sshd.endpointYAML())"
        )
        let conversation = try await TCPConversation(port: bench.entry)
        let start = ContinuousClock.now
        _ = try await conversation.echo([1])
        // It does not take a login to be sure of what answers; where that is not at once, it may.
        let isPrompt = ContinuousClock.now - start < .milliseconds(250)
        #expect(!isPrompt || !bench.clientLog.lines.contains { $0.contains("logs in ahead") })
        bench.link.silence()
        bench.link.closeListener()
        let bytes = Pattern.bytes(100_000, seed: 3)
        #expect(try await conversation.echo(bytes) == bytes)
        let lines = bench.clientLog.lines
        let ahead = try #require(lines.firstIndex { $0.contains("logs in ahead") }, "\(lines)")
        #expect(lines.firstIndex { $0.contains("path down") }.map { ahead < $0 } ?? true, "\(lines)")
        let (_, ending) = try await conversation.end()
        #expect(ending == .endOfStream)
        await bench.stop()
        await sshd.stop()
    }

    @Test("with standby, h2-over-ssh is there before h2 dies, and made again") func standby() async throws {
        let backend = try EchoServer()
        let sshd = try await OpenSSHServer()
        let bench = try await Bench(
            to: backend.port,
            linkHost: "127.0.0.11",
            clientSettings: "connections: {resumable: true, standby: true}",
            endpoint: "  resumable: true\n\(try await sshd.endpointYAML())"
        )
        let conversation = try await TCPConversation(port: bench.entry)
        _ = try await conversation.echo([1])
        try await bench.clientLog.line(containing: "stands by")
        bench.link.close()
        let bytes = Pattern.bytes(100_000, seed: 3)
        #expect(try await conversation.echo(bytes) == bytes)
        #expect(bench.clientLog.lines.contains { $0.contains("path h2 → h2-over-ssh") })
        #expect(!bench.clientLog.lines.contains { $0.contains("path h2 → ssh") })
        let (_, ending) = try await conversation.end()
        #expect(ending == .endOfStream)
        await bench.stop()
        await sshd.stop()
    }

    // MARK: What peers must not

    /// What a client that speaks for itself reads off a stream.
    private final class Frames {
        private var reader = ResumptionFrameReader()
        private(set) var data: [UInt8] = []

        func read(_ stream: HBONEStream, data count: Int) async throws {
            while data.count < count {
                guard let bytes = try await stream.read() else { throw StreamError(.truncated, "the end") }
                try bytes.withUnsafeBytes { bytes in
                    var rest = bytes
                    while !rest.isEmpty {
                        if reader.dataLeft > 0 {
                            let piece = rest.prefix(reader.dataLeft)
                            data += piece
                            reader.took(piece.count)
                            rest = UnsafeRawBufferPointer(rebasing: rest[piece.count...])
                        } else {
                            _ = try reader.read(&rest)
                        }
                    }
                }
            }
        }

        static func frame(_ text: String) -> [UInt8] { [0, 0, 0, UInt8(text.utf8.count)] + Array(text.utf8) }
    }

    private static func client(_ kind: TestCertificates.Kind) async throws -> HBONEClient {
        try await HBONEClient(
            credentials: .directory(TestCertificates.shared.path(kind)),
            logger: LogRecorder().logger
        )
    }

    @Test("another's token, a used one, a position that cannot be: refused, and the stream goes on") func hostile()
        async throws
    {
        let backend = try EchoServer()
        let bench = try await Bench(to: backend.port)
        let peer = HBONEPeer(
            try Authority(parsing: "127.0.0.1:\(bench.link.port)"),
            expecting: .identities([try SPIFFEID("spiffe://mesh.example/ns/prod/sa/server")])
        )
        let destination = try Authority(parsing: "127.0.0.1:\(backend.port)")
        let own = try await Self.client(.client)
        // Another identity of the same namespace, which policy lets in.
        let other = try await Self.client(.server)

        func refusal(_ client: HBONEClient, _ request: String) async throws -> Int? {
            do {
                try await client.withStream(to: destination, through: peer, headers: ["resumable": request]) { _ in }
                return nil
            } catch let failure as ConnectFailure {
                return failure.response?.status
            }
        }

        try await own.withStream(to: destination, through: peer, headers: ["resumable": "1"]) { stream in
            let ticket = try #require(stream.response.headers["resumable"].flatMap { ResumptionTicket($0) })
            func request(_ generation: UInt64, _ position: UInt64, _ ticket: ResumptionTicket) -> String {
                ResumptionRequest(ticket, generation: generation, position: position).field
            }
            let frames = Frames()
            try await stream.write(Frames.frame("hello"))
            try await frames.read(stream, data: 5)

            #expect(try await refusal(other, request(1, 5, ticket)) == 404)
            let guessed = ResumptionTicket(id: ticket.id, secret: .init(high: 7, low: 7))
            #expect(try await refusal(own, request(1, 5, guessed)) == 404)
            #expect(try await refusal(own, request(1, 5, ResumptionTicket(id: 99, secret: ticket.secret))) == 404)
            #expect(try await refusal(own, request(1, 6, ticket)) == 400)
            #expect(try await refusal(own, request(1, 1 << 40, ticket)) == 400)
            #expect(try await refusal(own, request(0, 5, ticket)) == 409)
            #expect(try await refusal(own, "nonsense") == 400)
            // The stream is none the worse for it.
            try await stream.write(Frames.frame("still"))
            try await frames.read(stream, data: 10)

            let second = Frames()
            try await own.withStream(
                to: destination,
                through: peer,
                headers: ["resumable": request(5, 10, ticket)]
            ) { carrier in
                #expect(carrier.response.headers["resumable"] == "a")
                // Twice at once, and once more later.
                #expect(try await refusal(own, request(5, 10, ticket)) == 409)
                #expect(try await refusal(own, request(4, 10, ticket)) == 409)
                try await carrier.write(Frames.frame("world"))
                try await second.read(carrier, data: 5)
                #expect(second.data == Array("world".utf8))
                // An acknowledgement of what was never sent ends this carrier, and not the stream.
                try await carrier.write([1, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 0])
                await #expect(throws: StreamError.self) { try await second.read(carrier, data: 6) }
            }
            let third = Frames()
            try await own.withStream(
                to: destination,
                through: peer,
                headers: ["resumable": request(6, 15, ticket)]
            ) { carrier in
                try await carrier.write(Frames.frame("again"))
                try await third.read(carrier, data: 5)
                #expect(third.data == Array("again".utf8))
                // Ended in the way of HTTP/2 alone, it would be let go, and that may be seen before the end is sent.
                carrier.reset()
            }
            // The first carrier was let go when the second took over.
            await #expect(throws: StreamError.self) { try await frames.read(stream, data: 11) }
            #expect(frames.data == Array("hellostill".utf8))
        }
        #expect(backend.accepted == 1)
        #expect(bench.serverLog.lines.contains { $0.contains("another identity's") })
        let text = bench.serverLog.lines.joined()
        #expect(!text.contains("nonsense"))
        await own.shutDown()
        await other.shutDown()
        await bench.stop()
    }

    @Test("a peer that acknowledges nothing uses up its own share of the memory, and nobody else's") func greedy()
        async throws
    {
        let size = 20 << 20
        let source = try SourceServer(count: size)
        // Nor is anything let go of, however long the test takes.
        let bench = try await Bench(
            to: source.port,
            serverSettings: "connections: {resumable: true, resumeTimeout: 1h}"
        )
        let peer = HBONEPeer(
            try Authority(parsing: "127.0.0.1:\(bench.link.port)"),
            expecting: .identities([try SPIFFEID("spiffe://mesh.example/ns/prod/sa/server")])
        )
        let destination = try Authority(parsing: "127.0.0.1:\(source.port)")
        let greedy = try await Self.client(.server)
        try await withThrowingTaskGroup(of: Void.self) { group in
            for number in 0..<4 {
                group.addTask {
                    do {
                        try await greedy.withStream(
                            to: destination,
                            through: peer,
                            headers: ["resumable": "1"]
                        ) { stream in
                            while try await stream.read() != nil {}
                            if !Task.isCancelled { Issue.record("stream \(number) has ended") }
                        }
                    } catch {
                        if !Task.isCancelled { Issue.record("stream \(number): \(error)") }
                    }
                }
            }
            try await eventually("the share is used up") {
                bench.server.resumptions.held > 31 << 20
            }
            let conversation = try await TCPConversation(port: bench.entry)
            let (received, ending) = try await conversation.end(finishing: false)
            #expect(received == size && ending == .endOfStream)
            _ = try await conversation.end()
            group.cancelAll()
        }
        await greedy.shutDown()
        await bench.stop()
    }
}

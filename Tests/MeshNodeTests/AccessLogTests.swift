import Foundation
import H2Transport
import Logging
import MeshPaths
import MeshPolicy
import Platform
import Streams
import TestPeers
import Testing

@testable import MeshNode

/// A line for each stream, in both nodes.
@Suite(.timeLimit(.minutes(10))) struct AccessLogTests {
    struct Line: Sendable {
        let text: String
        let values: [String: String]

        subscript(key: String) -> String? { values[key] }
    }

    static func lines(_ path: String) -> [Line] {
        let text = (try? String(contentsOfFile: path, encoding: .utf8)) ?? ""
        // One without its end may be in the middle of being written.
        let whole = text.prefix(upTo: text.lastIndex(of: "\n") ?? text.startIndex)
        return whole.split(separator: "\n").map { line in
            let object = try? JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: Any]
            return Line(text: String(line), values: (object ?? [:]).mapValues { "\($0)" })
        }
    }

    static func wait(for count: Int, in path: String) async throws -> [Line] {
        try await eventually("\(count) lines in \(path)") { lines(path).count >= count }
        return lines(path)
    }

    @Test func aStreamLeavesALineInBothNodes() async throws {
        let backend = try EchoServer()
        let files = TemporaryDirectory()
        let pair = try await NodePair(
            to: backend.port,
            serverSettings: "accessLog: {file: \(files.path("server"))}",
            clientSettings: "accessLog: {file: \(files.path("client"))}"
        )
        let (received, _) = try await TCPClient.exchange(port: pair.entry, sending: Pattern.bytes(100_000, seed: 1))
        #expect(received.count == 100_000)
        let near = try #require(try await Self.wait(for: 1, in: files.path("client")).first)
        let far = try #require(try await Self.wait(for: 1, in: files.path("server")).first)

        #expect(near["listener"] == "in" && near["protocol"] == "tcp" && near["source"] == "local user", "\(near)")
        #expect(near["destination"] == "127.0.0.1:\(backend.port)")
        #expect(near["path"] == "h2" && near["peer"] == "spiffe://mesh.example/ns/prod/sa/server", "\(near)")
        #expect(near["policy"] == "default" && near["rule"] == nil && near["dialled"] == nil)
        #expect(far["listener"] == "hbone" && far["protocol"] == "hbone" && far["over"] == "h2", "\(far)")
        #expect(far["source"] == "spiffe://mesh.example/ns/prod/sa/client")
        #expect(far["path"] == "direct" && far["peer"] == nil && far["dialled"] == "127.0.0.1:\(backend.port)")
        #expect(far["policy"] == "backend" && far["rule"] == "1")
        for line in [near, far] {
            #expect(line["sent"] == "100000" && line["received"] == "100000")
            #expect(line["outcome"] == "ended" && line["by"] == "client" && line["code"] == nil, "\(line)")
            #expect(line["address"]?.hasPrefix("127.0.0.1:") == true)
            #expect(line["id"] == "1")
            let open = try #require(line["open"].flatMap(Double.init))
            let duration = try #require(line["duration"].flatMap(Double.init))
            #expect(0 <= open && open <= duration)
            #expect(line["time"]?.wholeMatch(of: #/\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z/#) != nil, "\(line)")
        }
        await pair.stop()
        #expect(Self.lines(files.path("client")).count == 1)
        // For those who collect logs, and nobody else.
        let attributes = try FileManager.default.attributesOfItem(atPath: files.path("client"))
        #expect((attributes[.posixPermissions] as? Int).map { $0 & 0o137 } == 0)
    }

    /// Also where their connections share one server: what came in by which of them is told in records and metrics.
    @Test func eachListenerOfHBONEHasItsName() async throws {
        let backend = try EchoServer()
        let files = TemporaryDirectory()
        let metrics = FreePort.next()
        let certificates = TestCertificates.shared
        let node = Node(
            try NodeConfiguration.parse(
                """
                identity: \(certificates.path(.server))
                listeners:
                - {name: inside, bind: "127.0.0.1:0", protocol: hbone}
                - {name: outside, bind: "127.0.0.1:0", protocol: hbone}
                policy:
                - name: all
                  action: ALLOW
                  rules: [{from: [{principals: ["mesh.example/*"]}], to: [{ports: [\(backend.port)]}]}]
                accessLog: {file: \(files.path("log"))}
                metrics: "127.0.0.1:\(metrics)"
                """,
                file: "node"
            ),
            loops: 1,
            logger: LogRecorder().logger
        )
        let listeners = try await node.start()
        let client = try await HBONEClient(credentials: .directory(certificates.path(.client)))
        for (count, listener) in [listeners[1], listeners[0], listeners[1]].enumerated() {
            let echoed = try await client.withStream(
                to: Authority(parsing: "127.0.0.1:\(backend.port)"),
                through: HBONEPeer(Authority(parsing: "\(listener.address)"))
            ) { stream in
                try await stream.write("a")
                try await stream.finish()
                return try await stream.read()
            }
            #expect(echoed == [97])
            _ = try await Self.wait(for: count + 1, in: files.path("log"))
        }
        let names = Self.lines(files.path("log")).map { $0["listener"] }
        #expect(names == ["outside", "inside", "outside"])
        let scrape = try await MetricsTests.scrape(metrics)
        #expect(scrape.value("bootstrap_streams_ended_total", ["listener": "outside", "protocol": "hbone"]) == 2)
        #expect(scrape.value("bootstrap_streams_ended_total", ["listener": "inside", "protocol": "hbone"]) == 1)
        await client.shutDown()
        await node.drain(deadline: .zero)
    }

    @Test func whoHasEndedIt() async throws {
        let source = try SourceServer(count: 1000, seed: 1)
        let files = TemporaryDirectory()
        let pair = try await NodePair(
            to: source.port,
            serverSettings: "accessLog: {file: \(files.path("server"))}",
            clientSettings: "accessLog: {file: \(files.path("client"))}"
        )
        let talk = try await TCPConversation(port: pair.entry)
        _ = try await talk.end(finishing: false)
        _ = try await talk.end()
        for name in ["server", "client"] {
            let line = try #require(try await Self.wait(for: 1, in: files.path(name)).first)
            #expect(line["outcome"] == "ended" && line["by"] == "destination" && line["received"] == "1000", "\(line)")
        }
        await pair.stop()
    }

    @Test func aRefusedStreamSaysWhy() async throws {
        let backend = try EchoServer()
        let closed = FreePort.next()
        let files = TemporaryDirectory()
        for (port, allowed, code, status, policy) in [
            (backend.port, 1 as UInt16, "denied", "403", "default"), (closed, closed, "refused", "503", "backend"),
        ] {
            let (near, far) = (files.path("client\(port)"), files.path("server\(port)"))
            let pair = try await NodePair(
                to: port,
                allowed: [allowed],
                serverSettings: "accessLog: {file: \(far)}",
                clientSettings: "accessLog: {file: \(near)}"
            )
            let (_, ending) = try await TCPClient.exchange(port: pair.entry, sending: [1])
            #expect(ending == .broken(ECONNRESET))
            let answered = try #require(try await Self.wait(for: 1, in: far).first)
            #expect(answered["outcome"] == "refused" && answered["by"] == "node" && answered["code"] == code)
            #expect(answered["status"] == status && answered["policy"] == policy, "\(answered)")
            #expect(answered["path"] == nil && answered["open"] == nil && answered["sent"] == "0")
            let asked = try #require(try await Self.wait(for: 1, in: near).first)
            #expect(asked["outcome"] == "refused" && asked["status"] == nil && asked["reason"] != nil, "\(asked)")
            await pair.stop()
        }
    }

    @Test func whatPolicyCutsIsToldAsCut() async throws {
        let backend = try EchoServer()
        let files = TemporaryDirectory()
        let pair = try await NodePair(to: backend.port, serverSettings: "accessLog: {file: \(files.path("server"))}")
        let talk = try await TCPConversation(port: pair.entry)
        #expect(try await talk.echo([1, 2, 3]) == [1, 2, 3])
        let file = pair.directory.path("server.yaml")
        let text = try String(contentsOfFile: file, encoding: .utf8)
        _ = try pair.directory.write("server.yaml", text.replacing("namespaces: [prod]", with: "namespaces: [dev]"))
        try await pair.server.reload()
        let line = try #require(try await Self.wait(for: 1, in: files.path("server")).first)
        #expect(line["outcome"] == "cut" && line["by"] == "node" && line["code"] == "denied", "\(line)")
        #expect(line["reason"]?.hasPrefix("policy changed: ") == true && line["sent"] == "3")
        await pair.stop()
    }

    /// A client that goes once the stream is open, and before it is joined, has had a stream.
    @Test func whatIsGivenUpOnceItIsOpenIsCut() async throws {
        let files = TemporaryDirectory()
        let log = try AccessLog(.init(path: files.path("log")), logger: LogRecorder().logger)
        let loop = EventLoop(name: "test")
        let destination = try Authority(parsing: "db.mesh:1")
        let (ended, refused): (Int, Int) = try await loop.execute {
            let records = StreamRecords(on: loop)
            records.use(log, isCounting: true)
            let plan = StreamPlanner(MeshRules(), own: nil, ownAddresses: []).plan(
                StreamRequest(
                    source: .localUser,
                    sourceIP: .loopbackIPv4,
                    transport: nil,
                    destination: destination,
                    now: 0
                )
            )
            let front = FrontName("in", protocol: "tcp")
            for isOpen in [true, false] {
                let ticket = records.begin(plan, at: front)
                if isOpen { ticket?.open(over: nil, dialled: nil, peer: nil) }
                ticket?.giveUp()
            }
            records.flush()
            return (records.fronts[0].ended.count, records.fronts[0].refused.count)
        }
        #expect(ended == 1 && refused == 1)
        let lines = try await Self.wait(for: 2, in: files.path("log"))
        #expect(lines[0]["outcome"] == "cut" && lines[0]["path"] == "direct" && lines[0]["open"] != nil, "\(lines[0])")
        #expect(lines[1]["outcome"] == "refused" && lines[1]["path"] == nil, "\(lines[1])")
        for line in lines { #expect(line["by"] == "client" && line["code"] == "closed", "\(line)") }
        await log.close()
        await loop.shutDown()
    }

    /// Lines are put together from what streams have in common, and a resumption is no such thing.
    @Test func whatOneStreamWentThroughIsSaidOfNoOther() async throws {
        let files = TemporaryDirectory()
        let log = try AccessLog(.init(path: files.path("log")), logger: LogRecorder().logger)
        let loop = EventLoop(name: "test")
        let destination = try Authority(parsing: "db.mesh:1")
        try await loop.execute {
            let records = StreamRecords(on: loop)
            records.use(log, isCounting: false)
            let planner = StreamPlanner(MeshRules(), own: nil, ownAddresses: [])
            for resumptions in [0, 2, 0] {
                let request = StreamRequest(
                    source: .localUser,
                    sourceIP: .loopbackIPv4,
                    transport: nil,
                    destination: destination,
                    now: 0
                )
                let ticket = records.begin(planner.plan(request), at: FrontName("in", protocol: "tcp"))
                ticket?.open(over: PathID(.h2), dialled: nil, peer: nil)
                if resumptions > 0 {
                    var history = ResumableStream.History()
                    (history.count, history.lastReason) = (resumptions, "cut")
                    ticket?.resumed(history, over: PathID(.h2OverSSH))
                }
                ticket?.giveUp()
            }
            records.flush()
        }
        let lines = try await Self.wait(for: 3, in: files.path("log"))
        #expect(lines.map { $0["path"] } == ["h2", "h2-over-ssh", "h2"], "\(lines)")
        #expect(lines.map { $0["resumptions"] } == [nil, "2", nil] && lines[1]["resumed"] == "cut", "\(lines)")
        await log.close()
        await loop.shutDown()
    }

    @Test func aFrontHasItsName() async throws {
        let backend = try EchoServer()
        let files = TemporaryDirectory()
        let nodes = try await FrontNodes(
            """
            - {name: socks, bind: "127.0.0.1:0", protocol: socks5}
            - {name: proxy, bind: "127.0.0.1:0", protocol: http-proxy}
            """,
            names: ["web.mesh:80": backend.port],
            more: "accessLog: {file: \(files.path("log"))}"
        )
        let hello = Array("CONNECT web.mesh:80 HTTP/1.1\r\nHost: web.mesh:80\r\n\r\nx".utf8)
        _ = try await TCPClient.exchange(port: try nodes.port("proxy"), sending: hello)
        // Version 4a, whose name is in the request.
        let socks = [4, 1, 0, 80, 0, 0, 0, 1, 0] + Array("nobody.mesh".utf8) + [0]
        _ = try await TCPClient.exchange(port: try nodes.port("socks"), sending: socks)
        let lines = try await Self.wait(for: 2, in: files.path("log"))
        #expect(lines[0]["listener"] == "proxy" && lines[0]["protocol"] == "http-proxy", "\(lines[0])")
        #expect(lines[0]["destination"] == "web.mesh:80" && lines[0]["authority"] == "127.0.0.1:\(backend.port)")
        #expect(lines[0]["sent"] == "1" && lines[0]["outcome"] == "ended")
        #expect(lines[1]["listener"] == "socks" && lines[1]["protocol"] == "socks5", "\(lines[1])")
        #expect(lines[1]["destination"] == "nobody.mesh:80" && lines[1]["outcome"] == "refused")
        #expect(lines[1]["id"] == "2")
        // With the port, also where no stream was.
        for line in lines { #expect(line["address"]?.hasPrefix("127.0.0.1:") == true, "\(line)") }
        await nodes.stop()
    }

    @Test func anotherFileIsTakenOver() async throws {
        let backend = try EchoServer()
        let files = TemporaryDirectory()
        let pair = try await NodePair(to: backend.port, clientSettings: "accessLog: {file: \(files.path("one"))}")
        func exchange() async throws { _ = try await TCPClient.exchange(port: pair.entry, sending: [1]) }
        try await exchange()
        _ = try await Self.wait(for: 1, in: files.path("one"))
        // Moved away, as logrotate does.
        try FileManager.default.moveItem(atPath: files.path("one"), toPath: files.path("one.1"))
        pair.client.reopenAccessLog()
        try await eventually("another file") { FileManager.default.fileExists(atPath: files.path("one")) }
        try await exchange()
        _ = try await Self.wait(for: 1, in: files.path("one"))
        #expect(Self.lines(files.path("one.1")).count == 1)

        let file = pair.directory.path("client.yaml")
        let text = try String(contentsOfFile: file, encoding: .utf8)
        _ = try pair.directory.write("client.yaml", text.replacing(files.path("one"), with: files.path("two")))
        try await pair.client.reload()
        try await exchange()
        _ = try await Self.wait(for: 1, in: files.path("two"))
        // One that cannot be opened changes nothing.
        _ = try pair.directory.write("client.yaml", text.replacing(files.path("one"), with: files.path("no/where")))
        await #expect(throws: (any Error).self) { try await pair.client.reload() }
        try await exchange()
        #expect(try await Self.wait(for: 2, in: files.path("two")).last?["id"] == "4")
        await pair.stop()
        #expect(Self.lines(files.path("one")).count == 1)
    }

    // MARK: What cannot be written

    private static func line(_ number: Int) -> [UInt8] { Array("{\"id\":\(number)}\n".utf8) }

    @Test func aPipeThatNobodyReadsHoldsNobodyUp() async throws {
        let files = TemporaryDirectory()
        #expect(mkfifo(files.path("pipe"), 0o600) == 0)
        let reader = open(files.path("pipe"), O_RDONLY | O_NONBLOCK | O_CLOEXEC)
        defer { close(reader) }
        let recorder = LogRecorder()
        let log = try AccessLog(.init(path: files.path("pipe")), limit: 10_000, logger: recorder.logger)
        // Full from the beginning: otherwise the log may lose lines, go on, and lose lines once more.
        Self.fill(files.path("pipe"))
        var count = 0
        // More than the buffer holds.
        while log.counts.dropped < 100 {
            log.append(Self.line(count), lines: 1)
            count += 1
        }
        #expect(recorder.lines.count { $0.contains("the access log loses lines") } == 1)
        await log.close(patience: .milliseconds(1))

        #expect(fcntl(reader, F_SETFL, 0) == 0)
        let text = try await Self.onThread { Self.drain(reader) }
        let lines = text.split(separator: "\n")
        #expect(text.hasSuffix("\n"))
        // What is there is whole, and in order.
        let numbers = lines.filter { $0.hasPrefix("{\"id\":") }.compactMap { Int($0.dropFirst(6).dropLast()) }
        #expect(numbers == numbers.sorted() && Set(numbers).count == numbers.count)
        #expect(numbers.count == Int(log.counts.written))
        #expect(numbers.count + Int(log.counts.dropped) == count)
    }

    /// By whoever closes it, which does not wait for long; the write that held it up ends later. Nor does a reader that
    /// goes end this process.
    @Test func whatTheEndCostsIsToldOnce() async throws {
        let files = TemporaryDirectory()
        #expect(mkfifo(files.path("pipe"), 0o600) == 0)
        let reader = open(files.path("pipe"), O_RDONLY | O_NONBLOCK | O_CLOEXEC)
        let recorder = LogRecorder()
        let log = try AccessLog(.init(path: files.path("pipe")), logger: recorder.logger)
        Self.fill(files.path("pipe"))
        for number in 0..<3 { log.append(Self.line(number), lines: 1) }
        await log.close(patience: .milliseconds(1))
        let told = "the access log ends with 3 lines missing"
        #expect(recorder.lines.count { $0.contains(told) } == 1, "\(recorder.lines)")
        close(reader)
        await log.close(patience: .seconds(60))
        #expect(log.counts == AccessLog.Counts(written: 0, dropped: 3))
        #expect(recorder.lines.count { $0.contains(told) } == 1, "\(recorder.lines)")
    }

    /// Who reads it may come later.
    @Test func aPipeWithoutAReaderIsOpened() async throws {
        let files = TemporaryDirectory()
        #expect(mkfifo(files.path("pipe"), 0o600) == 0)
        let log = try AccessLog(.init(path: files.path("pipe")), logger: LogRecorder().logger)
        log.append(Self.line(1), lines: 1)
        try await eventually("it is in the pipe") { log.counts.written == 1 }
        let reader = open(files.path("pipe"), O_RDONLY | O_NONBLOCK | O_CLOEXEC)
        defer { close(reader) }
        await log.close()
        #expect(fcntl(reader, F_SETFL, 0) == 0)
        #expect(try await Self.onThread { Self.drain(reader) } == String(decoding: Self.line(1), as: UTF8.self))
    }

    /// Writes lines to a named pipe that somebody has open, until there is no room for a byte.
    private static func fill(_ path: String) {
        let writer = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC)
        defer { close(writer) }
        var lines = [UInt8](repeating: UInt8(ascii: "\n"), count: Int(PIPE_BUF))
        while write(writer, &lines, lines.count) == lines.count {}
    }

    private static func drain(_ descriptor: Int32) -> String {
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 1 << 16)
        while true {
            let count = read(descriptor, &chunk, chunk.count)
            guard count > 0 else { return String(decoding: bytes, as: UTF8.self) }
            bytes += chunk[..<count]
        }
    }

    private static func onThread<Value: Sendable>(_ body: @escaping @Sendable () -> Value) async throws -> Value {
        await withCheckedContinuation { continuation in
            Thread { continuation.resume(returning: body()) }.start()
        }
    }

    /// Also where it is no file: what fits into the memory waits, and the rest is counted.
    @Test func aFullDiskIsToldOnceAndCounted() async throws {
        let recorder = LogRecorder()
        let line = Self.line(7)
        let log = try AccessLog(.init(path: "/dev/full"), limit: 40 * line.count, logger: recorder.logger)
        for _ in 0..<100 { log.append(line, lines: 1) }
        func told(_ words: String) -> Int { recorder.lines.count { $0.contains(words) } }
        let waits = "the access log waits for room: writing to /dev/full: No space"
        try await eventually("it is told") { told(waits) > 0 }
        #expect(log.counts == AccessLog.Counts(written: 0, dropped: 60))
        // Tried again, and nothing more is said of it.
        await log.close(patience: .seconds(60))
        #expect(log.counts == AccessLog.Counts(written: 0, dropped: 100))
        #expect(told(waits) == 1 && told("the access log loses lines: writing to") == 0, "\(recorder.lines)")
        #expect(told("the access log ends with 100 lines missing: /dev/full had no room") == 1, "\(recorder.lines)")
    }

    /// After a while without room, the next line says how many are missing, and begins a line of its own.
    @Test func howManyAreMissingIsInTheLog() async throws {
        let files = TemporaryDirectory()
        let path = files.path("log")
        let log = try AccessLog(.init(path: path), limit: 100, logger: LogRecorder().logger)
        log.append([UInt8](repeating: 0x20, count: 101), lines: 7)
        log.append(Self.line(1), lines: 1)
        let lines = try await Self.wait(for: 2, in: path)
        #expect(lines[0]["dropped"] == "7" && lines[0]["time"] != nil, "\(lines[0])")
        #expect(lines[1]["id"] == "1")
        await log.close(patience: .seconds(60))
        #expect(log.counts == AccessLog.Counts(written: 1, dropped: 7))
    }

    /// Nobody closes the log of a reload that fails later.
    @Test func theLastReferenceEndsIt() async throws {
        let files = TemporaryDirectory()
        #expect(mkfifo(files.path("pipe"), 0o600) == 0)
        let reader = open(files.path("pipe"), O_RDONLY | O_NONBLOCK | O_CLOEXEC)
        defer { close(reader) }
        try {
            let log = try AccessLog(.init(path: files.path("pipe")), logger: LogRecorder().logger)
            log.append(Self.line(1), lines: 1)
        }()
        #expect(fcntl(reader, F_SETFL, 0) == 0)
        // To the end, which comes when nobody has it open any more.
        #expect(try await Self.onThread { Self.drain(reader) } == String(decoding: Self.line(1), as: UTF8.self))
    }

    @Test func itIsCheckedBefore() throws {
        let hbone = "{name: a, bind: \"127.0.0.1:1\", protocol: hbone}"
        for (value, message) in [
            ("stdout", "'accessLog' must be a mapping"), ("{}", "needs the key 'file'"),
            ("{file: x, level: debug}", "unknown key 'level'"),
        ] {
            let error = #expect(throws: (any Error).self) {
                try NodeConfiguration.parse("identity: i\nlisteners: [\(hbone)]\naccessLog: \(value)\n", file: "f")
            }
            #expect("\(error.map { "\($0)" } ?? "")".contains(message), "\(error.map { "\($0)" } ?? "")")
        }
        let file = try NodeConfiguration.parse(
            "identity: i\nlisteners: [\(hbone)]\naccessLog: {file: log}\n",
            file: "/etc/f"
        )
        #expect(file.accessLog == .init(path: "/etc/log"))
        let output = try NodeConfiguration.parse(
            "identity: i\nlisteners: [\(hbone)]\naccessLog: {file: stdout}\n",
            file: "f"
        )
        #expect(output.accessLog == .init(path: nil))
    }
}

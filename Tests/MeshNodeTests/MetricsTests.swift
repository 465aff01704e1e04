import Foundation
import HTTP1
import Logging
import Platform
import Streams
import TestPeers
import Testing

@testable import MeshNode

/// What Prometheus reads of a node.
@Suite(.timeLimit(.minutes(10))) struct MetricsTests {
    struct Family: Decodable, Sendable {
        let name: String
        let type: String
        let help: String
        let samples: [Sample]
    }

    struct Sample: Decodable, Sendable {
        let name: String
        let labels: [String: String]
        let value: String

        init(from decoder: any Decoder) throws {
            var list = try decoder.unkeyedContainer()
            name = try list.decode(String.self)
            labels = try list.decode([String: String].self)
            value = try list.decode(String.self)
        }
    }

    struct Scrape: Sendable {
        let families: [Family]

        /// The value of the one series that has these labels, among others.
        func value(_ name: String, _ labels: [String: String] = [:]) -> Double? {
            let samples = families.flatMap(\.samples).filter { sample in
                sample.name == name && labels.allSatisfy { sample.labels[$0] == $1 }
            }
            return samples.count == 1 ? Double(samples[0].value) : nil
        }
    }

    /// By Prometheus' own parser.
    static func parse(_ text: String) async throws -> Scrape {
        let output = try await ChildProcess.run(
            TestTools.python,
            ["\(TestTools.repository)/Tests/Peers/prometheus/parse.py"],
            input: Array(text.utf8)
        )
        try #require(output.succeeded, "\(output.standardError)\n\(text)")
        let data = Data(output.standardOutput.utf8)
        return Scrape(families: try JSONDecoder().decode([Family].self, from: data))
    }

    static func scrape(_ port: UInt16) async throws -> Scrape {
        let answer = try await OperationClient.get("/metrics", port)
        #expect(answer.status == 200)
        #expect(answer.head.contains("\r\ncontent-type: text/plain; version=0.0.4"), "\(answer.head)")
        return try await parse(answer.body)
    }

    @Test func whatStreamsDoIsCounted() async throws {
        let backend = try EchoServer()
        let (near, far) = (FreePort.next(), FreePort.next())
        let pair = try await NodePair(
            to: backend.port,
            serverSettings: "metrics: \"127.0.0.1:\(far)\"",
            clientSettings: "metrics: \"127.0.0.1:\(near)\""
        )
        let before = try await Self.scrape(near)
        #expect(before.value("bootstrap_streams_opened_total") == nil)
        #expect(before.value("bootstrap_paths_in_use", ["transport": "h2"]) == 0)
        for _ in 0..<3 { _ = try await TCPClient.exchange(port: pair.entry, sending: [1, 2, 3, 4]) }
        let talk = try await TCPConversation(port: pair.entry)
        _ = try await talk.echo(Pattern.bytes(1000, seed: 1))

        try await eventually("three have ended") {
            (try? await Self.scrape(far))?.value("bootstrap_streams_ended_total") == 3
        }
        let client = try await Self.scrape(near)
        let front = ["listener": "in", "protocol": "tcp"]
        let onward = front.merging(["transport": "h2"]) { $1 }
        #expect(client.value("bootstrap_streams", onward) == 1)
        #expect(client.value("bootstrap_streams_opened_total", onward) == 4)
        #expect(client.value("bootstrap_stream_open_seconds_count", onward) == 4)
        #expect(client.value("bootstrap_paths_in_use", ["transport": "h2"]) == 1)
        #expect(client.value("bootstrap_path_changes_total", ["change": "chosen", "transport": "h2"]) == 1)
        #expect(client.value("bootstrap_h2_handshakes_total", ["role": "client", "result": "ok"]) == 1)
        #expect(client.value("bootstrap_h2_handshake_time_seconds_count", ["role": "client"]) == 1)
        let server = try await Self.scrape(far)
        // Those of the live stream are among them.
        let bytes = ["listener": "hbone", "protocol": "hbone"]
        #expect(server.value("bootstrap_stream_bytes_total", bytes.merging(["direction": "sent"]) { $1 }) == 1012)
        #expect(server.value("bootstrap_stream_bytes_total", bytes.merging(["direction": "received"]) { $1 }) == 1012)
        #expect(
            server.value("bootstrap_streams_ended_total", ["transport": "direct", "reason": "ok", "by": "client"]) == 3
        )
        #expect(server.value("bootstrap_h2_handshake_time_seconds_count", ["role": "server"]) == 1)
        #expect(server.value("process_open_fds").map { $0 > 5 } == true)
        #expect(server.value("process_resident_memory_bytes").map { $0 > 1_000_000 } == true)
        #expect(server.value("process_cpu_seconds_total").map { $0 > 0 } == true)
        #expect(server.value("process_start_time_seconds").map { $0 > 1_700_000_000 } == true)
        #expect(server.value("bootstrap_certificate_remaining_seconds").map { $0 > 0 } == true)
        _ = try await talk.end()
        await pair.stop()
    }

    @Test func whatIsRefusedIsCountedByItsReason() async throws {
        let backend = try EchoServer()
        let (near, far) = (FreePort.next(), FreePort.next())
        let pair = try await NodePair(
            to: backend.port,
            allowed: [1],
            serverSettings: "metrics: \"127.0.0.1:\(far)\"",
            clientSettings: "metrics: \"127.0.0.1:\(near)\""
        )
        _ = try await TCPClient.exchange(port: pair.entry, sending: [1])
        let server = try await Self.scrape(far)
        #expect(server.value("bootstrap_streams_refused_total", ["listener": "hbone", "reason": "denied"]) == 1)
        #expect(server.value("bootstrap_streams_opened_total") == nil)
        let client = try await Self.scrape(near)
        #expect(client.value("bootstrap_streams_refused_total", ["listener": "in", "reason": "denied"]) == 1)
        await pair.stop()
    }

    @Test func clientsThatSayNothingAreCountedAtEachListener() async throws {
        let port = FreePort.next()
        let nodes = try await FrontNodes(
            """
            - {name: proxy, bind: "127.0.0.1:0", protocol: http-proxy}
            - {name: socks, bind: "127.0.0.1:0", protocol: socks5}
            """,
            names: [:],
            more: "metrics: \"127.0.0.1:\(port)\""
        )
        var silent: [TCPConversation] = []
        for name in ["proxy", "proxy", "socks"] { silent.append(try await TCPConversation(port: nodes.port(name))) }
        try await eventually("all of them are waited for") {
            (try? await Self.scrape(port))?.value("bootstrap_clients_waiting") == 3
        }
        for client in silent { _ = try? await client.end() }
        await nodes.stop()
    }

    @Test func clientsThatSpeakNoTLSAreCountedAndTold() async throws {
        let echo = try EchoServer()
        let port = FreePort.next()
        let nodes = try await FrontNodes(
            "- {name: in, bind: \"127.0.0.1:0\", protocol: tls, forwardTo: \"echo.mesh:7\"}",
            names: ["echo.mesh:7": echo.port],
            more: "metrics: \"127.0.0.1:\(port)\""
        )
        let entry = try nodes.port("in")
        _ = try await TCPClient.exchange(port: entry, sending: Array("GET / HTTP/1.1\r\n\r\n".utf8))
        try await nodes.nearLog.line(containing: "warning no TLS handshake")
        let labels = ["listener": "in", "protocol": "tls", "reason": "protocolViolation"]
        let scrape = try await Self.scrape(port)
        #expect(scrape.value("bootstrap_handshake_failures_total", labels) == 1)
        await nodes.stop()
    }

    /// The page and the node name the same metrics, of the same kinds, with the same labels.
    @Test func theDocumentationSaysWhatIsThere() async throws {
        let page = try String(contentsOfFile: "\(TestTools.repository)/docs/metrics.md", encoding: .utf8)
        var documented: [String: [String]] = [:]
        for row in page.split(separator: "\n") where row.hasPrefix("| `") {
            let columns = row.split(separator: "|").map { $0.trimmingCharacters(in: .whitespaces) }
            let code = { (text: String) in text.split(separator: "`").enumerated().filter { $0.offset % 2 == 0 } }
            let labels = columns[2].isEmpty ? [] : code(columns[2]).map { String($0.element) }
            for name in code(columns[0]) { documented["\(name.element)"] = [columns[1]] + labels }
        }
        let known = Dictionary(
            uniqueKeysWithValues: MetricCatalog.all.map { ($0.name, [$0.kind.rawValue] + $0.labels) }
        )
        for (name, facts) in known { #expect(documented[name] == facts, "\(name)") }
        for name in documented.keys { #expect(known[name] != nil, "\(name) is documented and not there") }
    }

    @Test func everyFamilyThatIsShownIsKnown() async throws {
        let backend = try EchoServer()
        let port = FreePort.next()
        let pair = try await NodePair(to: backend.port, clientSettings: "metrics: \"127.0.0.1:\(port)\"")
        _ = try await TCPClient.exchange(port: pair.entry, sending: [1])
        let scrape = try await Self.scrape(port)
        let known = Dictionary(uniqueKeysWithValues: MetricCatalog.all.map { ($0.name, $0) })
        #expect(scrape.families.map(\.name) == MetricCatalog.all.map(\.name))
        for family in scrape.families {
            let metric = try #require(known[family.name])
            #expect(metric.kind.rawValue == family.type && metric.help == family.help)
            for sample in family.samples {
                #expect(Set(sample.labels.keys).subtracting(["le"]) == Set(metric.labels), "\(sample)")
            }
        }
        await pair.stop()
    }

    @Test func whatTheTextFormatEscapes() async throws {
        var text = PrometheusText()
        text.declare("a_total", .counter, help: "back\\slash\nand \"quotes\"")
        text.add("a_total", [("x", "\\ \"\u{301} \n é")], 7)
        text.declare("b", .gauge, help: "")
        text.add("b", 1.5)
        text.declare("c_seconds", .histogram, help: "times")
        var histogram = Histogram()
        for time: UInt64 in [0, 50_000, 50_001, 7_000_000, 60_000_000_000] { histogram.record(nanoseconds: time) }
        text.add("c_seconds", [("role", "x")], histogram)
        let scrape = try await Self.parse(text.text)
        #expect(scrape.families[0].help == "back\\slash\nand \"quotes\"")
        #expect(scrape.value("a_total", ["x": "\\ \"\u{301} \n é"]) == 7)
        #expect(scrape.value("b") == 1.5)
        #expect(scrape.value("c_seconds_bucket", ["le": "5e-05"]) == nil)
        #expect(scrape.value("c_seconds_bucket", ["le": "0.00005"]) == 2)
        #expect(scrape.value("c_seconds_bucket", ["le": "0.01"]) == 4)
        #expect(scrape.value("c_seconds_bucket", ["le": "+Inf"]) == 5)
        #expect(scrape.value("c_seconds_sum") == 60.007100001)
    }

    @Test func livenessAndReadiness() async throws {
        let backend = try EchoServer()
        let port = FreePort.next()
        let pair = try await NodePair(to: backend.port, clientSettings: "metrics: \"127.0.0.1:\(port)\"")
        #expect(try await OperationClient.get("/healthz", port).body == "ok\n")
        #expect(try await OperationClient.get("/readyz", port).body == "ready\n")
        #expect(try await OperationClient.get("/", port).status == 404)
        // A stream keeps the node, which is not ready for others meanwhile.
        let talk = try await TCPConversation(port: pair.entry)
        _ = try await talk.echo([1])
        let drained = Task { await pair.client.drain(deadline: nil) }
        try await eventually("it is not ready") {
            (try? await OperationClient.get("/readyz", port))?.status == 503
        }
        #expect(try await OperationClient.get("/readyz", port).body == "draining\n")
        #expect(try await OperationClient.get("/healthz", port).status == 200)
        #expect(try await Self.scrape(port).value("bootstrap_draining") == 1)
        _ = try await talk.end()
        await drained.value
        await #expect(throws: (any Error).self) { try await OperationClient.get("/healthz", port) }
        await pair.stop()
    }

    @Test func whatIsNotAnswered() async throws {
        let backend = try EchoServer()
        let port = FreePort.next()
        let pair = try await NodePair(to: backend.port, clientSettings: "metrics: \"127.0.0.1:\(port)\"")
        let host = "Host: 127.0.0.1:\(port)"
        for (request, status) in [
            ("GET /metrics HTTP/1.1\r\n\r\n", 400), ("GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n", 403),
            ("GET /metrics HTTP/1.1\r\n\(host)\r\nOrigin: http://evil.example\r\n\r\n", 403),
            ("GET /metrics HTTP/1.1\r\n\(host)\r\nSec-Fetch-Site: cross-site\r\n\r\n", 403),
            ("POST /metrics HTTP/1.1\r\n\(host)\r\n\r\n", 403),
            ("POST /metrics HTTP/1.1\r\n\(host)\r\nX-Bootstrap: 1\r\n\r\n", 405),
            ("PUT /metrics HTTP/1.1\r\n\(host)\r\n\r\n", 405), ("GET /metrics\r\n\r\n", 400),
            ("GET /metrics HTTP/1.1\r\n\(host)\r\nContent-Length: 3\r\n\r\nabc", 413),
            ("GET http://127.0.0.1/metrics HTTP/1.1\r\n\(host)\r\n\r\n", 400), ("nonsense\r\n\r\n", 400),
            ("GET /metrics HTTP/1.1\r\nHost: localhost:\(port)\r\n\r\n", 200),
            ("HEAD /metrics HTTP/1.1\r\n\(host)\r\n\r\n", 200),
        ] {
            let answer = try await OperationClient.send(request, port)
            #expect(answer.status == status, "\(request)")
            #expect(!answer.head.lowercased().contains("access-control"))
            if request.hasPrefix("HEAD") { #expect(answer.body.isEmpty) }
        }
        await pair.stop()
    }

    /// Loopback says who may ask; beyond it the address is what Prometheus calls it.
    @Test func namesBeyondLoopback() throws {
        for (bind, host, isAnswered) in [
            ("127.0.0.1", "127.0.0.1:1", true), ("127.0.0.1", "[::1]:1", true), ("127.0.0.1", "localhost", true),
            ("127.0.0.1", "10.0.0.1", false), ("127.0.0.1", "node.example:1", false), ("0.0.0.0", "10.0.0.1:1", true),
            ("0.0.0.0", "node.example:1", true), ("127.0.0.1", "", false),
            ("127.0.0.1", "localhost.evil.example", false),
        ] {
            #expect(Self.isAnswered(bind: bind, host: host) == isAnswered, "\(host) at \(bind)")
        }
    }

    private static func isAnswered(bind: String, host: String) -> Bool {
        var fields = HTTPFields()
        fields.append("host", host)
        let head = HTTPRequestHead(method: "GET", target: "/", version: .http11, fields: fields, framing: .none)
        guard case .success = OperationGate(bind: IPAddress(bind)).check(head) else { return false }
        return true
    }
}

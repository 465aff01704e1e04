import Foundation
import H2Transport
import Logging
import MeshIdentity
import MeshPolicy
import Platform
import Streams
import TestPeers
import Testing

@testable import MeshNode

/// The lines of the access log, as they are put together.
@Suite struct LineWriterTests {
    private static func text(_ body: (inout LineWriter) -> Void) -> String {
        var line = LineWriter()
        body(&line)
        return String(decoding: line.take(), as: UTF8.self)
    }

    @Test func numbers() {
        var powers: [UInt64] = [0, 1, 9, UInt64.max, UInt64.max - 1]
        var power: UInt64 = 10
        while power < 1_000_000_000_000_000_000 {
            powers += [power - 1, power, power + 1]
            power *= 10
        }
        powers += [power * 10 - 1, power * 10]
        for number in powers { #expect(Self.text { $0.append(number) } == "\(number)") }
        for (nanoseconds, text) in [
            (0, "0.000000"), (999, "0.000000"), (1000, "0.000001"), (61_000_042_999, "61.000042"),
            (999_999_999_999, "999.999999"),
        ] as [(UInt64, String)] {
            #expect(Self.text { $0.append(nanoseconds: nanoseconds) } == text)
        }
        #expect(Self.text { $0.append(1234, digits: 3) } == "234" && Self.text { $0.append(7, digits: 3) } == "007")
    }

    @Test func itGrowsAndShrinks() {
        var line = LineWriter()
        for length in [0, 1, 4095, 4096, 4097, 100_000] {
            let bytes = (0..<length).map { UInt8(truncatingIfNeeded: $0 &* 31) }
            line.append("a")
            line.append(bytes)
            line.append("b")
            let (count, written) = (line.count, line.take())
            #expect(count == length + 2)
            #expect(written == [0x61] + bytes + [0x62])
            line.shrink()
            let isEmpty = line.isEmpty
            #expect(isEmpty)
        }
    }

    @Test func aTrace() {
        let trace = TraceParent()
        #expect(Self.text { $0.append(trace) } == trace.description)
    }

    /// A line says of a stream what the page of live streams says of it, also where the pieces of lines before it are
    /// used again.
    @Test func aLineSaysWhatTheStreamIs() async throws {
        let loop = EventLoop(name: "test")
        let lines: [(line: String, members: String)] = try await loop.execute {
            let records = StreamRecords(on: loop)
            records.use(nil, isCounting: true)
            let planner = StreamPlanner(MeshRules(), own: nil, ownAddresses: [])
            let front = FrontName("in \"1\"", protocol: "tcp")
            let other = FrontName("other", protocol: "socks5")
            var text = RecordText()
            var lines: [(line: String, members: String)] = []
            let clients: [SocketAddress?] = [
                nil, try SocketAddress(parsing: "127.0.0.1:7"), try SocketAddress(parsing: "127.0.0.2:65535"),
                try SocketAddress(parsing: "[::1]:80"), try SocketAddress(unixPath: "/run/a\"b"),
            ]
            for second in [1, 2, 3] as [Int64] {
                for destination in ["db.mesh:1", "web.mesh:2"] {
                    for (number, client) in clients.enumerated() {
                        let request = StreamRequest(
                            source: number == 2 ? .unauthenticated : .localUser,
                            sourceIP: number == 3 ? .loopbackIPv6 : .loopbackIPv4,
                            transport: number == 4 ? .h2 : nil,
                            destination: try Authority(parsing: destination),
                            now: second
                        )
                        guard
                            let ticket = records.begin(planner.plan(request), at: number == 1 ? other : front)
                        else { continue }
                        ticket.client = client
                        if number % 2 == 0 { ticket.trace = TraceParent() }
                        if number > 2 {
                            var metadata = StreamMetadata()
                            metadata.baggage = "service.name=web\(number),note=a%22b"
                            metadata.answer = second == 2 ? "service.name=db" : nil
                            metadata.network = "east"
                            ticket.metadata = metadata
                        }
                        if number != 2 { ticket.open(over: PathID(number == 4 ? .ssh : .h2), dialled: nil, peer: nil) }
                        var line = LineWriter()
                        let record = StreamRecord(
                            ticket: ticket,
                            ended: ticket.began + 1_500_000,
                            outcome: .cut,
                            sent: UInt64(number),
                            received: 1 << 40,
                            failure: StreamError(.reset, "a \"reason\""),
                            endedBy: .destination,
                            status: number == 2 ? 503 : nil
                        )
                        text.write(record, into: &line)
                        let written = "{\"id\":" + String(decoding: line.take(), as: UTF8.self)
                        let members = JSONWriter.fragment { ticket.write(into: &$0) }
                        lines.append((written, String(decoding: members, as: UTF8.self)))
                    }
                }
            }
            return lines
        }
        await loop.shutDown()
        #expect(lines.count == 30)
        for (line, members) in lines {
            // Members first, in their order; then what became of it.
            #expect(line.hasPrefix("{" + members.dropFirst() + ",\"sent\":"), "\(line)")
            let object = try JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: Any]
            #expect(line.hasSuffix("}\n") && line.filter { $0 == "\n" }.count == 1)
            #expect(object?["received"] as? Int == 1 << 40 && object?["duration"] as? Double == 0.0015, "\(line)")
            #expect(object?["outcome"] as? String == "cut" && object?["by"] as? String == "destination")
            #expect(object?["code"] as? String == "reset" && object?["reason"] as? String == "a \"reason\"")
        }
    }
}

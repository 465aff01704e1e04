import Foundation
import MeshNode
import Streams
import TestPeers
import Testing

/// Many streams at once, and what they leave in the log.
@Suite(.timeLimit(.minutes(10))) struct ManyStreamsTests {
    /// Connections to the client node, all at once. Returns how each went.
    private func exchange(_ pair: NodePair, count: Int) async throws -> [Bool] {
        try await withThrowingTaskGroup(of: Bool.self) { group in
            for index in 0..<count {
                group.addTask { [entry = pair.entry] in
                    let sent = Pattern.bytes(100, seed: UInt64(index))
                    let (received, ending) = try await TCPClient.exchange(port: entry, sending: sent)
                    return ending == .endOfStream && received == sent
                }
            }
            return try await group.reduce(into: []) { $0.append($1) }
        }
    }

    private static func denied(_ lines: [String]) -> Int {
        lines.filter { $0.contains("denied") }.reduce(0) { sum, line in
            guard let range = line.range(of: "lines left out\": ") else { return sum + 1 }
            return sum + (Int(line[range.upperBound...].prefix { $0.isNumber }) ?? 0)
        }
    }

    @Test func fourHundredConnectionsAtOnceAreServed() async throws {
        let backend = try EchoServer()
        let pair = try await NodePair(to: backend.port)
        let served = try await exchange(pair, count: 400)
        #expect(served.count { $0 } == 400)
        await pair.stop()
    }

    @Test func aPeerThatIsDeniedAgainAndAgainDoesNotFillTheLog() async throws {
        let pair = try await NodePair(to: 9, allowed: [1])
        let served = try await exchange(pair, count: 200)
        #expect(served.count { $0 } == 0)
        // Written, or counted among those that were left out.
        try await eventually("each of them is accounted for") { Self.denied(pair.serverLog.lines) == 200 }
        let lines = pair.serverLog.lines.filter { $0.contains("denied") }
        #expect(lines.count < 100)
        #expect(lines.allSatisfy { $0.contains("spiffe://mesh.example/ns/prod/sa/client") })
        await pair.stop()
    }
}

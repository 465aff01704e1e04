import H2Transport
import Streams
import TestPeers
import Testing

/// Our client against our server, over sockets and over streams that do everything the contract allows.
@Suite struct TunnelTests {
    final class Ends {
        let pair: H2Pair
        var client: StreamEnd?
        var server: StreamEnd?

        init(_ pair: H2Pair) { self.pair = pair }

        func open(_ authority: String = "10.0.0.1:80") {
            pair.open(authority) { client, server in
                self.client = StreamEnd(client, keepsBytes: false)
                self.server = StreamEnd(server, keepsBytes: false)
            }
        }

        func close() {
            client?.stream.close()
            server?.stream.close()
            pair.close()
        }
    }

    enum Transport: String, CaseIterable, Sendable {
        case socket, ragged, oneByte

        func make(_ loop: EventLoop, seed: UInt64) throws -> (ByteStream, ByteStream) {
            switch self {
            case .socket: try Socket.pair(on: loop)
            case .ragged: HostileStream.pair(on: loop, .ragged(seed: seed))
            case .oneByte: HostileStream.pair(on: loop, .oneByte(seed: seed))
            }
        }

        var bytes: Int { self == .oneByte ? 20_000 : (self == .ragged ? 3_000_000 : 50_000_000) }
    }

    @Test("bytes go both ways at once, in order and complete", arguments: Transport.allCases)
    func bothWays(_ transport: Transport) async throws {
        try await withLoop { loop in
            let ends = try await OnLoop(loop) {
                let (first, second) = try transport.make(loop, seed: 11)
                let ends = Ends(try H2Pair(first, second))
                ends.open()
                return ends
            }
            try await ends.until("the tunnel opens") { $0.server != nil }
            let bytes = transport.bytes
            try await ends {
                $0.client?.send(bytes, seed: 1)
                $0.server?.send(bytes + 7, seed: 2)
            }
            try await ends.until("both directions end") {
                $0.client?.readEnded == true && $0.server?.readEnded == true
            }
            let sums = try await ends { ($0.client?.takeChecksum() ?? "", $0.server?.takeChecksum() ?? "") }
            #expect(sums.0 == Pattern.checksum(bytes + 7, seed: 2))
            #expect(sums.1 == Pattern.checksum(bytes, seed: 1))
            try await ends { $0.close() }
            try await ends.until("both connections end cleanly") {
                $0.pair.clientEvents.isClosed && $0.pair.serverEvents.isClosed
            }
            let failures = try await ends { [$0.pair.clientEvents.failure, $0.pair.serverEvents.failure] }
            #expect(failures == [nil, nil])
        }
    }
}

import MeshIdentity
import Streams
import TestPeers
import Testing

@testable import H2Transport

@Suite(.timeLimit(.minutes(10)))
struct TLSStreamTests {
    private let client = "spiffe://mesh.example/ns/prod/sa/client"
    private let server = "spiffe://mesh.example/ns/prod/sa/server"

    @Test func bothSidesLearnWhoTheOtherIs() async throws {
        let outcome = try await runPair()
        let atClient = try #require(outcome.client.peer)
        let atServer = try #require(outcome.server.peer)
        #expect(atClient.identity?.description == server)
        #expect(atServer.identity?.description == client)
        #expect(atClient.applicationProtocol == "h2")
        #expect(atServer.applicationProtocol == "h2")
        #expect(atClient.cipher == "TLS_AES_128_GCM_SHA256")
        #expect(try atClient.notAfter == TestCertificates.shared.chain(.server)[0].notAfter)
        #expect(try atServer.notAfter == TestCertificates.shared.chain(.client)[0].notAfter)
        #expect(outcome.client.endpoint?.ending == .end)
        #expect(outcome.server.endpoint?.ending == .end)
    }

    @Test(arguments: [LowerStreams.sockets, .tcp])
    func sixtyFourMebibytesEachWay(over lower: LowerStreams) async throws {
        let job = Endpoint.Job(bytesToSend: 64 << 20)
        let outcome = try await runPair(
            client: .client.with { $0.job = job },
            server: .server.with { $0.job = job },
            over: lower
        )
        for side in [outcome.client, outcome.server] {
            let endpoint = try #require(side.endpoint)
            #expect(endpoint.ending == .end)
            #expect(endpoint.received == 64 << 20)
            #expect(endpoint.checksum == Endpoint.checksum(64 << 20))
        }
    }

    /// Short reads and writes, refusals at whim, sizes and vectors that fit nothing: byte for byte the same.
    @Test(arguments: [
        MemoryStream.Temper(seed: 11, largestTransfer: 1, blockingPercent: 0),
        MemoryStream.Temper(seed: 12, largestTransfer: 7, blockingPercent: 30),
        MemoryStream.Temper(seed: 13, largestTransfer: 5000, blockingPercent: 50),
        MemoryStream.Temper(seed: 14, largestTransfer: 300_000, blockingPercent: 20),
        MemoryStream.Temper(seed: 15, largestTransfer: 20_000, blockingPercent: 80),
    ])
    func hostileLowerStream(_ temper: MemoryStream.Temper) async throws {
        let size = min(4 << 20, temper.largestTransfer * 4000) + 12_345
        let outcome = try await runPair(
            client: .client.with { $0.job = .init(bytesToSend: size, chunk: 100_001, vectors: 13, readBuffer: 20_011) },
            server: .server.with { $0.job = .init(bytesToSend: size, chunk: 700_000, vectors: 3, readBuffer: 1009) },
            over: .memory(temper)
        )
        for side in [outcome.client, outcome.server] {
            let endpoint = try #require(side.endpoint)
            #expect(endpoint.ending == .end)
            #expect(endpoint.received == size)
            #expect(endpoint.checksum == Endpoint.checksum(size))
        }
    }

    /// One direction ends, the other goes on: both ways round.
    @Test(arguments: [true, false])
    func halfClose(clientFirst: Bool) async throws {
        let early = Endpoint.Job(bytesToSend: 1000)
        let late = Endpoint.Job(bytesToSend: 3 << 20, sendsAfterEnd: true)
        let outcome = try await runPair(
            client: .client.with { $0.job = clientFirst ? early : late },
            server: .server.with { $0.job = clientFirst ? late : early }
        )
        let (first, second) = clientFirst ? (outcome.client, outcome.server) : (outcome.server, outcome.client)
        #expect(first.endpoint?.ending == .end)
        #expect(first.endpoint?.checksum == Endpoint.checksum(3 << 20))
        #expect(second.endpoint?.ending == .end)
        #expect(second.endpoint?.checksum == Endpoint.checksum(1000))
    }

    /// Many updates of the sending keys, both ways at once (RFC 8446 §5.5 asks for them; OpenSSL does not count).
    @Test func keysAreUpdatedAfterTheirLimit() async throws {
        let outcome = try await runPair(
            client: .client.with {
                $0.recordsPerKey = 3
                $0.job = .init(bytesToSend: 2_000_000, chunk: 1000)
            },
            server: .server.with {
                $0.recordsPerKey = 5
                $0.job = .init(bytesToSend: 2_000_000, chunk: 40_000)
            }
        )
        #expect(outcome.client.endpoint?.checksum == Endpoint.checksum(2_000_000))
        #expect(outcome.server.endpoint?.checksum == Endpoint.checksum(2_000_000))
    }
}

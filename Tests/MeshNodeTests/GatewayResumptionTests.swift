import Foundation
import MeshIdentity
import MeshNode
import Streams
import TestPeers
import Testing

@testable import MeshNode
@testable import MeshPaths

/// Streams to a workload through gateways outlive the connections on the way, whichever of them is cut: the gateways
/// know nothing of it.
@Suite(.timeLimit(.minutes(5))) struct GatewayResumptionTests {
    /// A client, gateways in a row, a workload, and before each of them a link that can be cut.
    private final class Bench: Sendable {
        static let destination = "echo.mesh:7"

        let directory = TemporaryDirectory()
        let workload: Node
        let gateways: [Node]
        let client: Node
        /// To each gateway, nearest first, and to the workload.
        let links: [CuttingLink]
        let entry: UInt16
        let log = LogRecorder()

        /// - Parameter count: Gateways.
        init(to backend: UInt16, gateways count: Int) async throws {
            let certificates = TestCertificates.shared
            let files = directory
            func node(
                _ name: String,
                _ yaml: String,
                _ logger: LogRecorder = LogRecorder()
            ) async throws -> (Node, UInt16) {
                let file = try files.write("\(name).yaml", yaml)
                let node = Node(try NodeConfiguration.load(file), loops: 1, logger: logger.logger)
                return (node, try #require(try await node.start().first).address.port)
            }
            func hop(_ identity: String, _ endpoint: String) -> String {
                """
                identity: \(identity)
                listeners:
                - {name: hbone, bind: "127.0.0.1:0", protocol: hbone}
                endpoints:
                - \(endpoint)
                policy:
                - {name: all, action: ALLOW, rules: [{from: [{namespaces: [prod]}]}]}
                """
            }
            let (workload, port) = try await node(
                "workload",
                hop(
                    certificates.path(.server),
                    "{match: \"\(Self.destination)\", address: \"127.0.0.1:\(backend)\", direct: true}"
                )
            )
            // From the workload back to the client: each gateway is asked for the next, the last for the destination.
            var links = [try CuttingLink(to: port)]
            var gateways: [Node] = []
            for index in (0..<count).reversed() {
                let isLast = index == count - 1
                let (gateway, port) = try await node(
                    "gateway\(index)",
                    hop(
                        GatewayNodes.gatewayCredential,
                        isLast
                            ? "{match: \"\(Self.destination)\", address: \"127.0.0.1:\(links[0].port)\", direct: true}"
                            : "{match: \"127.0.0.1:\(links[0].port)\", direct: true}"
                    )
                )
                gateways.insert(gateway, at: 0)
                links.insert(try CuttingLink(to: port), at: 0)
            }
            let via = links.dropLast().map { "\"127.0.0.1:\($0.port)\"" }.joined(separator: ", ")
            (self.workload, self.gateways, self.links) = (workload, gateways, links)
            (client, entry) = try await node(
                "client",
                """
                identity: \(certificates.path(.client))
                listeners:
                - {name: in, bind: "127.0.0.1:0", protocol: tcp, forwardTo: "\(Self.destination)"}
                endpoints:
                - match: "\(Self.destination)"
                  via: [\(via)]
                  viaIdentity: "\(GatewayNodes.gatewayID)"
                  identity: "\(GatewayNodes.workloadID)"
                  resumable: true
                """,
                log
            )
        }

        /// What is kept of streams, at both ends.
        var held: Int { client.resumptions.held + workload.resumptions.held }

        func stop() async {
            await client.drain(deadline: .seconds(1))
            for gateway in gateways { await gateway.drain(deadline: .milliseconds(200)) }
            await workload.drain(deadline: .seconds(1))
            for link in links { link.close() }
        }
    }

    @Test("a stream goes on byte for byte, whichever connection on the way is cut", arguments: [1, 2])
    func cuts(gateways: Int) async throws {
        let backend = try EchoServer()
        let bench = try await Bench(to: backend.port, gateways: gateways)
        let stream = try await TCPConversation(port: bench.entry)
        #expect(try await stream.echo([7]) == [7])
        for round in 0..<2 {
            for (number, link) in bench.links.enumerated() {
                link.cut()
                let sent = Pattern.bytes(300_000, seed: UInt64(round * 10 + number))
                let received = try await stream.echo(sent)
                #expect(Checksum.of(received) == Checksum.of(sent), "round \(round), link \(number)")
            }
        }
        let (rest, ending) = try await stream.end()
        #expect(ending == .endOfStream && rest == 0)
        #expect(backend.accepted == 1, "the destination has seen one connection")
        try await eventually("nothing is kept of streams that are over", within: .seconds(20)) { bench.held == 0 }
        await bench.stop()
    }

    @Test(
        "many streams of random traffic, while every connection on the way is cut again and again",
        arguments: [1, 2]
    )
    func crowd(gateways: Int) async throws {
        let backend = try EchoServer()
        let bench = try await Bench(to: backend.port, gateways: gateways)
        // All of them are there before the first cut: a request that has no answer is repeated four times at most.
        let streams = try await withThrowingTaskGroup(of: TCPConversation.self) { group in
            for _ in 0..<30 {
                group.addTask {
                    let stream = try await TCPConversation(port: bench.entry)
                    #expect(try await stream.echo([7]) == [7])
                    return stream
                }
            }
            return try await group.reduce(into: []) { $0.append($1) }
        }
        for link in bench.links { link.cut(every: 3_000_000) }
        try await withThrowingTaskGroup(of: Void.self) { group in
            for (number, stream) in streams.enumerated() {
                group.addTask {
                    let sent = Pattern.bytes(1 + (number * 7_919) % 200_000 + 100_000, seed: UInt64(number))
                    let received = try await stream.echo(sent)
                    #expect(Checksum.of(received) == Checksum.of(sent), "stream \(number)")
                    let (rest, ending) = try await stream.end()
                    #expect(ending == .endOfStream && rest == 0, "stream \(number): \(rest) bytes after the last")
                }
            }
            try await group.waitForAll()
        }
        for link in bench.links { link.cut(every: .max) }
        #expect(bench.links.allSatisfy { $0.cuts > 0 }, "\(bench.links.map(\.cuts))")
        #expect(backend.accepted == 30)
        try await eventually("nothing is kept of streams that are over", within: .seconds(20)) { bench.held == 0 }
        await bench.stop()
    }

    @Test("a stream that has ended in one direction outlives it as well")
    func halfClosed() async throws {
        let source = try SourceServer(count: 300_000)
        let bench = try await Bench(to: source.port, gateways: 2)
        let half = try await TCPConversation(port: bench.entry)
        let (count, ending) = try await half.end(finishing: false)
        #expect(count == 300_000 && ending == .endOfStream)
        for link in bench.links { link.cut() }
        let (rest, end) = try await half.end()
        #expect(rest == 0 && end == .endOfStream)
        try await eventually("the destination reads the end") { source.transfers.first?.ending == .endOfStream }
        await bench.stop()
    }
}

import Foundation
import MeshNode
import Streams
import TestPeers
import Testing

/// Double HBONE with Envoy in each of the three places.
@Suite(.timeLimit(.minutes(10))) struct GatewayInteropTests {
    private static func exchange(_ port: UInt16, bytes count: Int = 3_000_000) async throws {
        let bytes = Pattern.bytes(count, seed: 5)
        let (received, ending) = try await TCPClient.exchange(port: port, sending: bytes)
        #expect(received == bytes && ending == .endOfStream)
    }

    @Test func envoyIsTheGateway() async throws {
        let backend = try EchoServer()
        let port = FreePort.next()
        let nodes = try await GatewayNodes(
            to: backend.port,
            clientSettings: "labels: {service.name: web, topology.istio.io/network: east}"
        )
        let envoy = try await Envoy.start(
            "eastwest",
            [
                "PORT": String(port), "WORKLOAD": String(nodes.workloadPort),
                "CREDENTIAL": GatewayNodes.gatewayCredential,
            ]
        )
        let text = try String(contentsOfFile: nodes.directory.path("client.yaml"), encoding: .utf8)
        try nodes.directory.write(
            "client.yaml",
            text.replacingOccurrences(of: "127.0.0.1:\(nodes.gatewayPort)", with: "127.0.0.1:\(port)")
        )
        try await nodes.client.reload()
        for _ in 0..<3 { try await Self.exchange(nodes.entry) }
        for line in try await nodes.lines(3, of: "client") {
            #expect(line["path"] == "h2-via-gateway" && line["peer"] == GatewayNodes.workloadID, "\(line.text)")
        }
        for line in try await nodes.lines(3, of: "workload") {
            #expect(line["source"] == "spiffe://mesh.example/ns/prod/sa/client" && line["network"] == "east")
        }
        await nodes.stop()
        // One stream for all of them.
        let hop = try await envoy.process.standardOutput.line(containing: "HOP")
        #expect(hop.contains("auth=\(GatewayNodes.destination) code=200"), "\(hop)")
        #expect(hop.contains("network=- baggage=service.name=web"), "\(hop)")
        await envoy.stop()
    }

    @Test func envoyIsTheClient() async throws {
        let backend = try EchoServer()
        let nodes = try await GatewayNodes(to: backend.port)
        let entry = FreePort.next()
        let envoy = try await Envoy.start(
            "double",
            [
                "CONNECT": String(entry), "AUTHORITY": GatewayNodes.destination,
                "GATEWAY": String(nodes.gatewayPort), "CREDENTIAL": TestCertificates.shared.path(.client),
            ]
        )
        for _ in 0..<3 { try await Self.exchange(entry) }
        for line in try await nodes.lines(3, of: "workload") {
            #expect(line["source"] == "spiffe://mesh.example/ns/prod/sa/client" && line["network"] == "west")
            #expect(line["outcome"] == "ended" && line["sent"] == "3000000", "\(line.text)")
            #expect(line.text.contains(#""service.name":"client""#), "\(line.text)")
        }
        await envoy.stop()
        for line in try await nodes.lines(1, of: "gateway") {
            #expect(line["source"] == "spiffe://mesh.example/ns/prod/sa/client" && line["network"] == nil)
            #expect(line["destination"] == GatewayNodes.destination, "\(line.text)")
        }
        await nodes.stop()
    }

    /// A hundred streams are all that Envoy takes on one connection: the rest goes over another one, inside of another
    /// stream of the same connection to the gateway.
    @Test func envoyIsTheWorkload() async throws {
        let backend = try EchoServer()
        let port = FreePort.next()
        let envoy = try await Envoy.start(
            "terminator",
            [
                "PORT": String(port), "STREAMS": "100", "REQUESTS": "0",
                "CREDENTIAL": TestCertificates.shared.path(.server),
            ]
        )
        let nodes = try await GatewayNodes(
            to: backend.port,
            front: { _ in port },
            client: "  address: \"127.0.0.1:\(backend.port)\"\n  identity: \"\(GatewayNodes.workloadID)\"",
            gatewaySettings: ""
        )
        let text = try String(contentsOfFile: nodes.directory.path("gateway.yaml"), encoding: .utf8)
        try nodes.directory.write(
            "gateway.yaml",
            text.replacingOccurrences(of: "*.mesh", with: "127.0.0.1:\(backend.port)", options: [], range: nil)
                .replacingOccurrences(of: "hosts: [\"127.0.0.1:\(backend.port)\"]", with: "hosts: [\"127.0.0.1\"]")
        )
        try await nodes.gateway.reload()
        try await Self.exchange(nodes.entry)
        let talks = try await withThrowingTaskGroup(of: TCPConversation.self) { group in
            for _ in 0..<120 {
                group.addTask { [entry = nodes.entry] in
                    let talk = try await TCPConversation(port: entry)
                    #expect(try await talk.echo([1, 2, 3]) == [1, 2, 3])
                    return talk
                }
            }
            return try await group.reduce(into: []) { $0.append($1) }
        }
        for talk in talks { #expect(try await talk.echo([4]) == [4]) }
        for talk in talks { #expect(try await talk.end().1 == .endOfStream) }
        await nodes.stop()
        #expect(try await nodes.lines(2, of: "gateway").count == 2)
        await envoy.stop()
    }
}

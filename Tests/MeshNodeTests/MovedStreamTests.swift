import Streams
import TestPeers
import Testing

@testable import MeshNode
@testable import MeshPaths

/// A stream that goes on from somewhere else is judged by where it is, not by where it was opened.
@Suite(.timeLimit(.minutes(3))) struct MovedStreamTests {
    @Test("a reload judges a resumed stream by the address that it comes from now", arguments: [1, 2])
    func movedToAnotherAddress(loops: Int) async throws {
        let backend = try EchoServer()
        let certificates = TestCertificates.shared
        let directory = TemporaryDirectory()
        let rules = NodeFile.server(identity: certificates.path(.server), ports: [backend.port])
        func configuration(denying address: String?) -> String {
            let deny = address.map {
                "\n- {name: moved, action: DENY, rules: [{from: [{sourceIPs: [\"\($0)/32\"]}]}]}"
            }
            return rules + (deny ?? "") + "\nconnections: {resumable: true}\n"
        }
        let file = try directory.write("server.yaml", configuration(denying: nil))
        let server = Node(
            try NodeConfiguration.load(file),
            configurationFile: file,
            loops: loops,
            logger: LogRecorder().logger
        )
        let link = try CuttingLink(to: try #require(try await server.start().first).address.port)
        let destination = "127.0.0.1:\(backend.port)"
        let clientFile = try directory.write(
            "client.yaml",
            """
            identity: \(certificates.path(.client))
            listeners:
            - {name: in, bind: "127.0.0.1:0", protocol: tcp, forwardTo: "\(destination)"}
            endpoints:
            - match: "\(destination)"
              hbone: "127.0.0.1:\(link.port)"
              identity: "spiffe://mesh.example/ns/prod/sa/server"
              resumable: true
            """
        )
        let client = Node(try NodeConfiguration.load(clientFile), loops: 1, logger: LogRecorder().logger)
        let stream = try await TCPConversation(port: try #require(try await client.start().first).address.port)
        #expect(try await stream.echo([7]) == [7])
        link.goOn(from: "127.0.0.2")
        link.cut()
        #expect(try await stream.echo([8]) == [8])

        try directory.write("server.yaml", configuration(denying: "127.0.0.1"))
        try await server.reload()
        #expect(try await stream.echo([9]) == [9], "it does not come from there any more")
        try directory.write("server.yaml", configuration(denying: "127.0.0.2"))
        try await server.reload()
        try await eventually("it ends, since it comes from there now", within: .seconds(10)) {
            (try? await stream.echo([10])) == nil
        }
        #expect(backend.accepted == 1)
        await client.drain(deadline: .zero)
        await server.drain(deadline: .zero)
        link.close()
    }
}

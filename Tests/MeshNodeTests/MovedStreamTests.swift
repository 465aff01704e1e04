import H2Transport
import Platform
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

    /// A reload reaches one event loop after the other. The one that a request comes to may not know of it yet, when
    /// the one that has the stream has judged that already by where it was.
    @Test("a stream that is asked for on another event loop is judged by what holds on its own") func judgedAtHome()
        async throws
    {
        let backend = try EchoServer()
        let directory = TemporaryDirectory()
        let rules = NodeFile.server(identity: TestCertificates.shared.path(.server), ports: [backend.port])
        let deny = "\n- {name: moved, action: DENY, rules: [{from: [{sourceIPs: [\"127.0.0.2/32\"]}]}]}\n"
        func start(_ name: String, _ yaml: String) async throws -> (node: Node, port: UInt16) {
            let file = try directory.write("\(name).yaml", yaml)
            let node = Node(try NodeConfiguration.load(file), loops: 2, logger: LogRecorder().logger)
            return (node, try #require(try await node.start().first).address.port)
        }
        let (server, port) = try await start("server", rules)
        let (changed, _) = try await start("changed", rules + deny)
        let link = try CuttingLink(to: port)
        link.goOn(from: "127.0.0.2")
        let loop = EventLoop(name: "clients")
        let destination = "127.0.0.1:\(backend.port)"
        /// On that event loop of the server, with a stream.
        func peer(to port: UInt16, on number: UInt64) async throws -> (AskingPeer.Bound, ResumptionTicket) {
            while true {
                let peer = try await AskingPeer.connect(to: port, on: loop)
                let answer = try await peer.ask(destination, ["resumable": "1"])
                let field = try #require(answer.response?.headers["resumable"], "\(answer)")
                let ticket = try #require(ResumptionTicket(field))
                if ticket.id >> 56 == number { return (peer, ticket) }
            }
        }
        let (gone, ticket) = try await peer(to: port, on: 0)
        let (asking, _) = try await peer(to: link.port, on: 1)
        try await gone.die()
        try await eventually("it waits") { server.resumptions.detached > 0 }
        let first = try #require(server.state.withLock { $0.workers.first })
        let snapshot = try await changed.group.loops[0].execute {
            try #require(changed.state.withLock { $0.workers.first }).withValue { $0.snapshot }
        }
        try await first.loop.execute { first.withValue { $0.take(snapshot) } }

        let field = ResumptionRequest(ticket, generation: 1, position: 0).field
        let answer = try await asking.ask(destination, ["resumable": field])
        #expect(answer.response?.status == 403, "\(answer)")
        // And is where it was, for who may come for it.
        let (allowed, _) = try await peer(to: port, on: 1)
        let again = ResumptionRequest(ticket, generation: 2, position: 0).field
        #expect(try await allowed.ask(destination, ["resumable": again]).failure == nil)
        await server.drain(deadline: .zero)
        await changed.drain(deadline: .zero)
        await loop.shutDown()
        link.close()
    }

    /// Its way to the peer is chosen anew each time.
    @Test("a stream goes on over no path that a reload has forbidden since it was opened") func forbiddenPath()
        async throws
    {
        let backend = try EchoServer()
        let certificates = TestCertificates.shared
        let directory = TemporaryDirectory()
        let rules = NodeFile.server(identity: certificates.path(.server), ports: [backend.port])
        let server = Node(
            try NodeConfiguration.load(try directory.write("server.yaml", rules)),
            loops: 1,
            logger: LogRecorder().logger
        )
        let port = try #require(try await server.start().first).address.port
        let sshd = try await OpenSSHServer()
        // The SSH server leads to the same port of its own machine.
        let link = try CuttingLink(to: port, host: "127.0.0.11", port: port)
        let destination = "127.0.0.1:\(backend.port)"
        let endpoint = try await sshd.endpointYAML()
        func configuration(_ policy: String) -> String {
            """
            identity: \(certificates.path(.client))
            listeners:
            - {name: in, bind: "127.0.0.1:0", protocol: tcp, forwardTo: "\(destination)"}
            endpoints:
            - match: "\(destination)"
              hbone: "127.0.0.11:\(link.port)"
              identity: "spiffe://mesh.example/ns/prod/sa/server"
              resumable: true
            \(endpoint)
            accessLog: {file: \(directory.path("client.log"))}
            \(policy)
            """
        }
        let file = try directory.write("client.yaml", configuration(""))
        let log = LogRecorder()
        let client = Node(
            try NodeConfiguration.load(file),
            configurationFile: file,
            loops: 1,
            logger: log.logger
        )
        let stream = try await TCPConversation(port: try #require(try await client.start().first).address.port)
        #expect(try await stream.echo([7]) == [7])
        try directory.write(
            "client.yaml",
            configuration("policy: [{name: direct, action: DENY, rules: [{when: [{transport: [h2-over-ssh]}]}]}]")
        )
        try await client.reload()
        #expect(try await stream.echo([8]) == [8])
        link.close()
        try await log.line(containing: "→ h2-over-ssh")
        try link.reopen()
        #expect(try await stream.echo([9]) == [9])
        let resumed = log.lines.filter { $0.contains("stream resumed") }
        #expect(!resumed.isEmpty && !resumed.contains { $0.contains("h2-over-ssh") }, "\(resumed)")
        await client.drain(deadline: .zero)
        await server.drain(deadline: .zero)
        await sshd.stop()
        link.close()
    }
}

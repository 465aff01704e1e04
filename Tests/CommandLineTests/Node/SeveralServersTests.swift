import Foundation
import Streams
import TestPeers
import Testing

/// A destination with several servers, each of them a node of its own, and a node that chooses.
@Suite(.timeLimit(.minutes(10))) struct SeveralServersTests {
    /// A server node, and behind it a backend of its own for `who.lan:1`.
    private final class Server {
        let directory = TemporaryDirectory()
        let backend: EchoServer
        let port = FreePort.next()
        var node: ChildProcess
        private let file: String

        init(_ kind: TestCertificates.Kind = .server, leadsNowhere: Bool = false) async throws {
            backend = try EchoServer()
            let target = leadsNowhere ? FreePort.next() : backend.port
            file = try directory.write(
                "node.yaml",
                """
                identity: \(TestCertificates.shared.path(kind))
                listeners:
                - {name: hbone, bind: "127.0.0.1:\(port)", protocol: hbone}
                endpoints:
                - {match: "who.lan:1", address: "127.0.0.1:\(target)", direct: true}
                policy: [{name: all, action: ALLOW, rules: [{to: [{ports: [1, \(target)]}]}]}]
                """
            )
            node = try Self.start(file)
            _ = try await node.standardOutput.line(containing: "ready hbone")
        }

        private static func start(_ file: String) throws -> ChildProcess {
            try ChildProcess(TestTools.bootstrap, ["node", "--config", file, "--loops", "1"])
        }

        func restart() async throws {
            node = try Self.start(file)
            _ = try await node.standardOutput.line(containing: "ready hbone")
        }

        func die() async throws {
            kill(node.pid, SIGKILL)
            _ = try await node.exit()
        }
    }

    /// The node that chooses.
    private struct Client {
        let directory = TemporaryDirectory()
        let file: String
        let node: ChildProcess
        let entry: UInt16

        static func yaml(_ ports: [UInt16], entry: UInt16) -> String {
            """
            identity: \(TestCertificates.shared.path(.client))
            listeners:
            - {name: in, bind: "127.0.0.1:\(entry)", protocol: tcp, forwardTo: "who.lan:1"}
            endpoints:
            - match: "who.lan:1"
              hbone: [\(ports.map { "\"127.0.0.1:\($0)\"" }.joined(separator: ", "))]
              identity: "spiffe://mesh.example/ns/prod/sa/server"
            """
        }

        init(to ports: [UInt16]) async throws {
            entry = FreePort.next()
            file = try directory.write("node.yaml", Self.yaml(ports, entry: entry))
            node = try ChildProcess(TestTools.bootstrap, ["node", "--config", file, "--loops", "1"])
            _ = try await node.standardOutput.line(containing: "ready in")
        }

        /// A stream that stays open.
        func open() async throws -> TCPConversation {
            let conversation = try await TCPConversation(port: entry)
            #expect(try await conversation.echo([1]) == [1])
            return conversation
        }

        /// How many of so many new streams at a time come through.
        func exchanges(_ count: Int) async -> Int {
            await withTaskGroup(of: Bool.self) { group in
                for _ in 0..<count {
                    group.addTask { [entry] in
                        let result = try? await TCPClient.exchange(port: entry, sending: [1, 2, 3])
                        return result?.received == [1, 2, 3]
                    }
                }
                return await group.reduce(0) { $0 + ($1 ? 1 : 0) }
            }
        }
    }

    @Test func oneIsKilledUnderLoadAndComesBack() async throws {
        let servers = [try await Server(), try await Server(), try await Server()]
        let client = try await Client(to: servers.map(\.port))
        func counts() -> [Int] { servers.map(\.backend.accepted) }
        // Streams that stay are spread evenly.
        var held: [TCPConversation] = []
        while held.count < 200, (counts().min() ?? 0) < 5 || (counts().max() ?? 0) - (counts().min() ?? 0) > 1 {
            held.append(try await client.open())
        }
        #expect(held.count < 200, "\(counts())")

        let before = counts()
        try await servers[0].die()
        // It is not known yet, but by the streams that are lost with it.
        #expect(await client.exchanges(60) == 60, "\(client.node.standardError.text)")
        #expect(counts()[0] == before[0])
        var alive = 0
        for conversation in held where (try? await conversation.echo([9])) == [9] { alive += 1 }
        #expect(alive == before[1] + before[2])

        try await servers[0].restart()
        try await eventually("it is back") {
            #expect(await client.exchanges(1) == 1)
            return counts()[0] > before[0]
        }
        // Its share: the others have their streams already.
        while held.count < 400, counts()[0] < before[0] + 3 { held.append(try await client.open()) }
        #expect(held.count < 400, "\(counts())")
        #expect(await client.exchanges(30) == 30)
    }

    @Test func whoCannotServeIsLeftToTheOthers() async throws {
        let good = try await Server()
        // Nobody listens; somebody else does; and one that does not reach what is behind it.
        let stranger = try await Server(.intruder)
        let empty = try await Server(leadsNowhere: true)
        let client = try await Client(to: [FreePort.next(), stranger.port, empty.port, good.port])
        #expect(await client.exchanges(1) == 1, "\(client.node.standardError.text)")
        try await eventually("all have been tried") {
            _ = await client.exchanges(5)
            return client.node.standardError.text.contains("server ejected")
        }
        #expect(await client.exchanges(40) == 40, "\(client.node.standardError.text)")
        #expect(stranger.backend.accepted == 0)
        let log = client.node.standardError.text
        #expect(log.contains("server down") && log.contains("spiffe://mesh.example/ns/intruder/sa/client"), "\(log)")
    }

    @Test func whenNoneIsThereTheErrorNamesThemAll() async throws {
        let ports = [FreePort.next(), FreePort.next(), FreePort.next()]
        let client = try await Client(to: ports)
        let (_, ending) = try await TCPClient.exchange(port: client.entry, sending: [1])
        #expect(ending == .broken(ECONNRESET))
        let line = try await client.node.standardError.line(containing: "none of the 3 servers works")
        for port in ports { #expect(line.contains("127.0.0.1:\(port): "), "\(line)") }

        let text = try await ChildProcess.run(
            TestTools.bootstrap,
            ["explain", "--listener", "in", "--config", client.file]
        )
        #expect(text.standardOutput.contains("h2 to 127.0.0.1:\(ports[0]) or 127.0.0.1:\(ports[1]) or "), "\(text)")
        let json = try await ChildProcess.run(
            TestTools.bootstrap,
            ["explain", "--listener", "in", "--config", client.file, "--output", "json"]
        )
        #expect(json.standardOutput.contains("\"servers\" : ["), "\(json)")
    }

    /// Which servers there are may change while streams are open at those that stay, and at those that go.
    @Test func aReloadOfTheListCutsNothing() async throws {
        let (first, second, third) = (try await Server(), try await Server(), try await Server())
        let client = try await Client(to: [first.port, second.port])
        var held: [TCPConversation] = []
        while held.count < 200, first.backend.accepted < 2 || second.backend.accepted < 2 {
            held.append(try await client.open())
        }
        _ = try client.directory.write("node.yaml", Client.yaml([second.port, third.port], entry: client.entry))
        kill(client.node.pid, SIGHUP)
        try await eventually("the new one serves") {
            #expect(await client.exchanges(1) == 1)
            return third.backend.accepted > 0
        }
        let before = first.backend.accepted
        #expect(await client.exchanges(20) == 20)
        #expect(first.backend.accepted == before)
        for conversation in held { #expect(try await conversation.echo([7]) == [7]) }
    }
}

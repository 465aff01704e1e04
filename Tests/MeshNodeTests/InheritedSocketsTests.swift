import Foundation
import Logging
import MeshNode
import Streams
import TestPeers
import Testing

/// What a node does with listening sockets that another process hands over.
@Suite struct InheritedSocketsTests {
    /// One listener cannot be bound: connections that wait at a socket that was handed over stay for the process that
    /// has it still.
    @Test(arguments: [true, false]) func aNodeThatCannotStartAcceptsNothing(inheritedFirst: Bool) async throws {
        let directory = TemporaryDirectory()
        let taken = try EchoServer()
        let listening = socket(AF_INET, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue), 0)
        defer { close(listening) }
        let port = FreePort.next()
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = port.bigEndian
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        let bound = withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(listening, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        try #require(bound == 0 && listen(listening, 8) == 0)
        // Waits in the queue from here on.
        let conversation = try await TCPConversation(port: port)

        let lines = [
            "- {name: hbone, bind: \"127.0.0.1:\(port)\", protocol: hbone}",
            "- {name: other, bind: \"127.0.0.1:\(taken.port)\", protocol: hbone}",
        ]
        let file = try directory.write(
            "node.yaml",
            """
            identity: \(TestCertificates.shared.path(.server))
            listeners:
            \((inheritedFirst ? lines : lines.reversed()).joined(separator: "\n"))
            """
        )
        let node = Node(try NodeConfiguration.load(file), loops: 1, logger: Logger(label: "test"))
        let inherited = InheritedSockets([try ListeningSocket(adopting: dup(listening), name: "hbone")])
        await #expect(throws: StreamError.self) { try await node.start(adopting: inherited) }
        await node.drain(deadline: .zero)

        let accepted = accept(listening, nil, nil)
        #expect(accepted >= 0, "the node has taken a connection that it cannot serve")
        if accepted >= 0 { close(accepted) }
        _ = try await conversation.end()
        taken.close()
    }

    /// The administration of the process that is replaced is reached until the start of the other one is certain.
    @Test(arguments: [true, false]) func aUnixSocketIsReplacedLast(starts: Bool) async throws {
        let directory = TemporaryDirectory()
        let taken = try EchoServer()
        let socket = directory.path("admin.sock")
        func node(_ name: String, _ more: String) throws -> Node {
            let file = try directory.write(
                name,
                """
                identity: \(TestCertificates.shared.path(.server))
                listeners:
                - {name: hbone, bind: "127.0.0.1:\(FreePort.next())", protocol: hbone}
                admin: \(socket)
                \(more)
                """
            )
            return Node(try NodeConfiguration.load(file), loops: 1, logger: Logger(label: "test"))
        }
        func identity() -> ino_t? {
            var status = stat()
            return lstat(socket, &status) == 0 ? status.st_ino : nil
        }
        let first = try node("first.yaml", "")
        _ = try await first.start()
        let before = try #require(identity())
        let port = starts ? FreePort.next() : taken.port
        let second = try node("second.yaml", "metrics: \"127.0.0.1:\(port)\"")
        let place = try SocketAddress(ip: "127.0.0.1", port: 0)
        let inherited = InheritedSockets([
            try ListeningSocket(bind: place, named: "other", options: .defaults)
        ])
        let ready = try? await second.start(adopting: inherited)
        #expect((ready != nil) == starts)
        let isSame = identity() == before
        #expect(isSame != starts)
        #expect(!FileManager.default.fileExists(atPath: socket + ".new"))
        await first.drain(deadline: .zero)
        await second.drain(deadline: .zero)
        #expect(!FileManager.default.fileExists(atPath: socket))
        taken.close()
    }
}

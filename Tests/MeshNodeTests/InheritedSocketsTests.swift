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
}

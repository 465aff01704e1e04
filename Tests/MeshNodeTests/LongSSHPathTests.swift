import Foundation
import H2Transport
import Streams
import TestPeers
import Testing

@testable import MeshNode
@testable import MeshPaths

/// The fallback at a distance: striping, and further sessions. Real sshds and nodes at the end of a link that delays.
@Suite(.serialized, .timeLimit(.minutes(10))) struct LongSSHPathTests {
    @Test func aLongPathIsStriped() async throws {
        let backend = try EchoServer()
        let sshd = try await OpenSSHServer()
        let link = try await DelayedLink(to: sshd.port, roundTrip: 30, rate: 100_000_000)
        let ssh = try await sshd.endpointYAML(through: link.port)
        let pair = try await NodePair(to: backend.port, ssh: ssh, path: "h2-over-ssh")
        let sent = Pattern.bytes(12_000_000, seed: 3)
        let (received, ending) = try await TCPClient.exchange(port: pair.entry, sending: sent)
        #expect(ending == .endOfStream)
        #expect(Checksum.of(received) == Checksum.of(sent))
        try await pair.clientLog.line(containing: "striped")
        #expect(pair.server.stripes.count == 1)
        try await eventually("all of its channels lead to the HBONE server") {
            sshd.connections(to: pair.hbone) >= Striping.channelsPerSession
        }
        await pair.stop()
        try await eventually("the striped stream has ended") { pair.server.stripes.count == 0 }
        await sshd.stop()
    }

    @Test func keysChangeUnderAStripedStream() async throws {
        let backend = try EchoServer()
        let sshd = try await OpenSSHServer(configuration: ["RekeyLimit 1M", "LogLevel DEBUG1"])
        let link = try await DelayedLink(to: sshd.port, roundTrip: 20, rate: 100_000_000)
        let ssh = try await sshd.endpointYAML(through: link.port)
        let pair = try await NodePair(to: backend.port, ssh: ssh, path: "h2-over-ssh")
        try await withThrowingTaskGroup(of: Void.self) { group in
            for seed in 1...4 as ClosedRange<UInt64> {
                group.addTask {
                    let sent = Pattern.bytes(4_000_000, seed: seed)
                    let (received, ending) = try await TCPClient.exchange(port: pair.entry, sending: sent, limit: 90)
                    #expect(ending == .endOfStream)
                    #expect(Checksum.of(received) == Checksum.of(sent))
                }
            }
            try await group.waitForAll()
        }
        #expect(pair.server.stripes.count == 1, "\(pair.clientLog.lines) \(pair.serverLog.lines)")
        try await sshd.logged("SSH2_MSG_NEWKEYS received", count: 5)
        await pair.stop()
        await sshd.stop()
    }

    /// The subflows come in on any of the server's loops.
    @Test func subflowsAreGatheredFromAllLoops() async throws {
        let backend = try EchoServer()
        let sshd = try await OpenSSHServer()
        let link = try await DelayedLink(to: sshd.port, roundTrip: 30, rate: 100_000_000)
        let ssh = try await sshd.endpointYAML(through: link.port)
        let pair = try await NodePair(to: backend.port, ssh: ssh, path: "h2-over-ssh", serverLoops: 3)
        for seed in 1...3 as ClosedRange<UInt64> {
            let sent = Pattern.bytes(3_000_000, seed: seed)
            let (received, ending) = try await TCPClient.exchange(port: pair.entry, sending: sent)
            #expect(ending == .endOfStream)
            #expect(Checksum.of(received) == Checksum.of(sent))
        }
        #expect(pair.server.stripes.count == 1)
        await pair.stop()
        await sshd.stop()
    }

    @Test func aShortPathIsNot() async throws {
        let backend = try EchoServer()
        let sshd = try await OpenSSHServer()
        let pair = try await NodePair(to: backend.port, ssh: try await sshd.endpointYAML(), path: "h2-over-ssh")
        let (received, _) = try await TCPClient.exchange(port: pair.entry, sending: [1, 2, 3])
        #expect(received == [1, 2, 3])
        // A machine that takes so long to answer itself has a long path, too.
        if !pair.clientLog.lines.contains(where: { $0.contains("striped") }) {
            #expect(pair.server.stripes.count == 0)
            #expect(sshd.connections(to: pair.hbone) == 1)
        }
        await pair.stop()
        await sshd.stop()
    }

    /// A server that knows nothing of it takes the preface for a broken TLS record.
    @Test func aServerThatCannotIsUsedWithOneChannel() async throws {
        let sshd = try await OpenSSHServer()
        let link = try await DelayedLink(to: sshd.port, roundTrip: 30, rate: 100_000_000)
        let listener = try await HBONEListener(
            bind: SocketAddress(ip: "127.0.0.1", port: 0),
            credentials: .directory(TestCertificates.shared.path(.server))
        )
        let serving = Task {
            await listener.serve(admit: { _ in .admit }) { stream in
                for try await chunk in stream.inbound { try await stream.write(chunk) }
            }
        }
        let directory = TemporaryDirectory()
        let log = LogRecorder()
        let file = try directory.write(
            "client.yaml",
            """
            identity: \(TestCertificates.shared.path(.client))
            listeners:
            - {name: in, bind: "127.0.0.1:0", protocol: tcp, forwardTo: "127.0.0.1:7"}
            endpoints:
            - match: "127.0.0.1:7"
              hbone: "127.0.0.1:\(listener.localAddress.port)"
              identity: "spiffe://mesh.example/ns/prod/sa/server"
              path: h2-over-ssh
            \(try await sshd.endpointYAML(through: link.port))
            """
        )
        let client = Node(try NodeConfiguration.load(file), loops: 1, logger: log.logger)
        let entry = try #require(try await client.start().first).address.port
        for seed in 1...2 as ClosedRange<UInt64> {
            let sent = Pattern.bytes(2_000_000, seed: seed)
            let (received, ending) = try await TCPClient.exchange(port: entry, sending: sent)
            #expect(ending == .endOfStream)
            #expect(Checksum.of(received) == Checksum.of(sent))
        }
        try await log.line(containing: "not striped")
        #expect(log.lines.count { $0.contains("not striped") } == 1)
        await client.drain(deadline: .seconds(1))
        serving.cancel()
        await serving.value
        await sshd.stop()
    }

    /// What a session's windows allow is not enough for two streams: there is a second session, for the next streams.
    @Test(arguments: [1, 3]) func furtherSessionsAreOpenedWhereWindowsAreTheLimit(_ limit: Int) async throws {
        let backend = try SourceServer(count: 24 << 20)
        let sshd = try await OpenSSHServer()
        let link = try await DelayedLink(to: sshd.port, roundTrip: 150, rate: 125_000_000)
        let ssh = try await sshd.endpointYAML(through: link.port, more: ", sessions: \(limit)")
        let pair = try await NodePair(to: backend.port, ssh: ssh, path: "ssh")
        if limit == 1 {
            try await pair.download(24 << 20, atOnce: 3)
            try await sshd.logged("Accepted publickey")
            #expect(sshd.logins == 1)
        } else {
            try await pair.download(24 << 20, atOnce: 3, untilLine: "another SSH session")
            try await sshd.logged("Accepted publickey", count: 2)
            #expect((2...limit).contains(sshd.logins))
            // New streams are spread over them.
            let first = try await TCPConversation(port: pair.entry)
            let second = try await TCPConversation(port: pair.entry)
            try await eventually("each is on a session of its own") {
                sshd.forwardingProcesses(to: backend.port).count == 2
            }
            withExtendedLifetime((first, second)) {}
        }
        await pair.stop()
        await sshd.stop()
    }

    /// A further session is a convenience: where it is refused, the first one goes on.
    @Test func aServerThatWantsNoMoreSessionsKeepsTheFirst() async throws {
        let backend = try SourceServer(count: 16 << 20)
        let sshd = try await OpenSSHServer()
        let link = try await DelayedLink(to: sshd.port, roundTrip: 150, rate: 125_000_000)
        let pair = try await NodePair(
            to: backend.port,
            ssh: try await sshd.endpointYAML(through: link.port),
            path: "ssh"
        )
        // Nobody can log in from now on.
        let (first, _) = try await TCPClient.exchange(port: pair.entry, sending: [1], limit: 90)
        #expect(first.count == 16 << 20)
        try sshd.directory.write("authorized_keys", "", permissions: 0o600)
        try await pair.download(16 << 20, atOnce: 3, untilLine: "no further SSH session")
        await pair.stop()
        await sshd.stop()
    }
}

extension NodePair {
    /// What the backend sends, so many times at once. With a line that the client's log shall have: again until it is
    /// there, ten times at most. Windows are the limit only when the machine has time to fill them.
    fileprivate func download(_ count: Int, atOnce streams: Int, untilLine line: String? = nil) async throws {
        for _ in 0..<(line == nil ? 1 : 10) {
            try await withThrowingTaskGroup(of: Void.self) { group in
                for _ in 0..<streams {
                    group.addTask {
                        let (received, ending) = try await TCPClient.exchange(port: self.entry, sending: [1], limit: 90)
                        #expect(ending == .endOfStream)
                        #expect(Checksum.of(received) == Pattern.checksum(count))
                    }
                }
                try await group.waitForAll()
            }
            if let line, clientLog.lines.contains(where: { $0.contains(line) }) { return }
        }
        if let line { try await clientLog.line(containing: line) }
    }
}

extension OpenSSHServer {
    /// Logins that have succeeded.
    fileprivate var logins: Int { log.components(separatedBy: "Accepted publickey").count - 1 }

    /// Its processes that are connected to a port of this machine.
    fileprivate func forwardingProcesses(to port: UInt16) -> Set<Int32> {
        let inodes = Self.sockets(to: port)
        return Set(
            sessionProcesses.filter { process in
                let directory = "/proc/\(process)/fd"
                let files = (try? FileManager.default.contentsOfDirectory(atPath: directory)) ?? []
                return files.contains { file in
                    let target = try? FileManager.default.destinationOfSymbolicLink(atPath: "\(directory)/\(file)")
                    return inodes.contains { target == "socket:[\($0)]" }
                }
            }
        )
    }

    /// Connections of this machine to a port of its own that stand.
    fileprivate func connections(to port: UInt16) -> Int { Self.sockets(to: port).count }

    private static func sockets(to port: UInt16) -> [String] {
        // Read to its end: the size of such a file says nothing.
        let data = try? FileHandle(forReadingAtPath: "/proc/net/tcp")?.readToEnd()
        let text = String(decoding: data ?? Data(), as: UTF8.self)
        let remote = String(format: "0100007F:%04X", port)
        return text.split(separator: "\n").compactMap { line in
            let fields = line.split(separator: " ")
            return fields.count > 9 && fields[2] == remote && fields[3] == "01" ? String(fields[9]) : nil
        }
    }
}

import Foundation
import TestPeers
import Testing

/// Ten thousand streams that do nothing, through two nodes that are processes of their own.
@Suite struct IdleStreamsTests {
    private static let count = 10_000

    /// Each process holds a descriptor for each stream on each side that it has sockets on.
    private static var descriptors: Int {
        var limit = rlimit()
        getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
        limit.rlim_cur = limit.rlim_max
        setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
        return Int(clamping: limit.rlim_cur)
    }

    @Test(
        "10,000 idle streams: what one costs each node",
        .enabled(if: descriptors >= count + 1000, "the hard limit on descriptors is below 11,000")
    )
    func memory() async throws {
        let directory = TemporaryDirectory()
        let environment: [String: String?] = ["HOME": directory.path(""), "BOOTSTRAP_HOME": directory.path("home")]
        func bootstrap(_ arguments: String...) async throws {
            let output = try await ChildProcess.run(TestTools.bootstrap, arguments, environment: environment)
            try #require(output.succeeded, "\(output.standardError)")
        }
        try await bootstrap("ca", "init", "--trust-domain", "idle.example")
        for name in ["server", "client"] {
            try await bootstrap("ca", "issue", "--id", "ns/default/sa/\(name)", "--out", directory.path(name))
        }
        let echo = try ChildProcess(
            TestTools.python,
            [TestTools.repository + "/Tests/Peers/echo.py"],
            keepsInputOpen: true
        )
        func line(_ process: ChildProcess, _ prefix: String) async throws -> String {
            var found: String?
            try await eventually("a line that starts with '\(prefix)'") {
                found = process.standardOutput.lines.first { !$0.isEmpty && $0.hasPrefix(prefix) }
                return found != nil
            }
            return found ?? ""
        }
        let target = try await line(echo, "")
        func node(_ name: String, _ yaml: String) async throws -> (process: ChildProcess, port: UInt16) {
            let file = try directory.write("\(name).yaml", "identity: \(directory.path(name))\n" + yaml)
            let process = try ChildProcess(
                TestTools.bootstrap,
                ["node", "--config", file, "--loops", "1"],
                environment: environment
            )
            let port = try await line(process, "ready").split(separator: ":").last.flatMap { UInt16($0) }
            return (process, try #require(port))
        }
        let server = try await node(
            "server",
            """
            listeners:
            - {name: hbone, bind: "127.0.0.1:0", protocol: hbone}
            policy:
            - name: echo
              action: ALLOW
              rules:
              - from: [{namespaces: [default]}]
                to: [{hosts: ["127.0.0.1"], ports: [\(target)]}]
            """
        )
        let client = try await node(
            "client",
            """
            listeners:
            - {name: in, bind: "127.0.0.1:0", protocol: tcp, forwardTo: "127.0.0.1:\(target)"}
            endpoints:
            - match: "127.0.0.1:\(target)"
              hbone: "127.0.0.1:\(server.port)"
              identity: "spiffe://idle.example/ns/default/sa/server"
            """
        )
        let sockets = Sockets()
        defer { sockets.close() }
        // What the first streams need is not what a stream costs: connections, pools, tables.
        try sockets.open(100, to: client.port)
        let processes = [("client", client.process.pid), ("server", server.process.pid)]
        let before = try processes.map { try Self.anonymousMemory(of: $0.1) }
        while sockets.count < Self.count { try sockets.open(100, to: client.port) }
        for (index, process) in processes.enumerated() {
            let perStream = (try Self.anonymousMemory(of: process.1) - before[index]) / (Self.count - 100)
            print("\(Self.count) idle streams: \(perStream) bytes each at the \(process.0)'s node")
            #expect(perStream <= 4096, "the \(process.0)'s node")
        }
        // They are streams, not only connections: the oldest and the newest still echo.
        try sockets.exchange(0)
        try sockets.exchange(Self.count - 1)
        sockets.close()
        await client.process.stop()
        await server.process.stop()
        await echo.stop()
    }

    /// In bytes.
    private static func anonymousMemory(of pid: Int32) throws -> Int {
        let status = try String(contentsOfFile: "/proc/\(pid)/status", encoding: .utf8)
        let line = try #require(status.split(separator: "\n").first { $0.hasPrefix("RssAnon:") })
        return try #require(line.split(separator: " ").compactMap { Int($0) }.first) * 1024
    }

    /// Blocking sockets, with a time limit.
    private final class Sockets {
        private var descriptors: [Int32] = []
        var count: Int { descriptors.count }

        /// Opens streams together, and waits until each has echoed one byte.
        func open(_ count: Int, to port: UInt16) throws {
            let first = descriptors.count
            for _ in 0..<count {
                let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
                try #require(descriptor >= 0, "socket: \(String(cString: strerror(errno)))")
                descriptors.append(descriptor)
                var limit = timeval(tv_sec: 60, tv_usec: 0)
                setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
                var address = sockaddr_in()
                address.sin_family = sa_family_t(AF_INET)
                address.sin_port = port.bigEndian
                address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
                let result = withUnsafePointer(to: address) {
                    $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                        connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
                    }
                }
                try #require(result == 0, "connect: \(String(cString: strerror(errno)))")
                var byte: UInt8 = 1
                try #require(send(descriptor, &byte, 1, Int32(MSG_NOSIGNAL)) == 1)
            }
            for index in first..<descriptors.count { try receive(index) }
        }

        func exchange(_ index: Int) throws {
            var byte: UInt8 = 1
            try #require(send(descriptors[index], &byte, 1, Int32(MSG_NOSIGNAL)) == 1)
            try receive(index)
        }

        private func receive(_ index: Int) throws {
            var byte: UInt8 = 0
            let received = recv(descriptors[index], &byte, 1, 0)
            try #require(received == 1 && byte == 1, "stream \(index) does not echo")
        }

        func close() {
            for descriptor in descriptors { _ = Glibc.close(descriptor) }
            descriptors = []
        }
    }
}

import Foundation
import MeshIdentity
import Streams
import TestPeers
import Testing

/// Listeners that come, go and change while the node runs: real processes, SIGHUP, real connections.
@Suite(.timeLimit(.minutes(10))) struct ListenerReloadTests {
    /// A node that dials directly, and two services with answers of their own.
    private final class Bench: Sendable {
        let directory = TemporaryDirectory()
        let echo: EchoServer
        let other: SourceServer
        let otherAnswer = Pattern.bytes(5, seed: 9)
        private let running = Lock<ChildProcess?>(nil)

        init() throws {
            echo = try EchoServer()
            other = try SourceServer(count: 5, seed: 9)
        }

        var node: ChildProcess { running.withLock { $0! } }

        /// A whitebox listener; to the echo server unless `port` says another one.
        func tcp(_ name: String, _ bind: UInt16, to port: UInt16? = nil) -> String {
            "{name: \(name), bind: \"127.0.0.1:\(bind)\", protocol: tcp, forwardTo: \"127.0.0.1:\(port ?? echo.port)\"}"
        }

        func write(_ listeners: [String], _ rest: String = "") throws {
            try directory.write(
                "node.yaml",
                """
                identity: \(TestCertificates.shared.path(.server))
                listeners:
                \(listeners.map { "- \($0)" }.joined(separator: "\n"))
                endpoints:
                - {match: "127.0.0.1:*", direct: true}
                \(rest)

                """
            )
        }

        func start(drain: String = "1s", _ arguments: String...) async throws {
            let process = try ChildProcess(
                TestTools.bootstrap,
                ["node", "--config", directory.path("node.yaml"), "--loops", "2", "--drain", drain] + arguments
            )
            running.withLock { $0 = process }
            _ = try await process.standardOutput.line(containing: "ready ")
        }

        /// Writes the file, and has it read.
        func reload(_ listeners: [String], _ rest: String = "", expecting line: String = "reloaded") async throws {
            let count = node.standardError.lines.count { $0.contains(line) }
            try write(listeners, rest)
            node.signal(SIGHUP)
            try await eventually("the node says '\(line)'; it said:\n\(node.standardError.text)") { [self] in
                node.standardError.lines.count { $0.contains(line) } > count
            }
        }

        func port(of name: String) async throws -> UInt16 {
            let line = try await node.standardOutput.line(containing: "ready \(name) ")
            return try #require(line.split(separator: ":").last.flatMap { UInt16($0) })
        }

        var ready: [String] { node.standardOutput.lines.filter { $0.hasPrefix("ready ") } }

        func echoes(_ port: UInt16) async throws {
            let (received, ending) = try await TCPClient.exchange(port: port, sending: [1, 2, 3])
            #expect(received == [1, 2, 3])
            #expect(ending == .endOfStream)
        }

        func isRefused(_ port: UInt16) async -> Bool {
            do {
                _ = try await TCPConversation(port: port)
                return false
            } catch {
                return true
            }
        }
    }

    @Test func listenersComeGoAndMove() async throws {
        let bench = try Bench()
        let (first, second, third) = (FreePort.next(), FreePort.next(), FreePort.next())
        try bench.write([bench.tcp("a", first), bench.tcp("chosen", 0)])
        try await bench.start()
        let chosen = try await bench.port(of: "chosen")
        var streams = [try await TCPConversation(port: first), try await TCPConversation(port: chosen)]
        func live() async throws {
            for stream in streams { #expect(try await stream.echo([4, 5]) == [4, 5]) }
        }
        try await live()

        // Another one.
        try await bench.reload([bench.tcp("a", first), bench.tcp("chosen", 0), bench.tcp("b", second)])
        #expect(try await bench.port(of: "b") == second)
        try await bench.echoes(second)
        streams.append(try await TCPConversation(port: second))
        try await live()

        // One goes; what it has accepted goes on.
        try await bench.reload([bench.tcp("chosen", 0), bench.tcp("b", second)])
        #expect(await bench.isRefused(first))
        _ = try await bench.node.standardError.line(containing: "listener 'a' on 127.0.0.1:\(first) is closed")
        try await bench.echoes(second)
        try await live()

        // One moves.
        try await bench.reload([bench.tcp("chosen", 0), bench.tcp("b", third)])
        #expect(await bench.isRefused(second))
        try await bench.echoes(third)
        try await live()

        // One leads elsewhere; its port stays, also one that the kernel has chosen.
        try await bench.reload([bench.tcp("chosen", 0, to: bench.other.port), bench.tcp("b", third)])
        let (answer, _) = try await TCPClient.exchange(port: chosen, sending: [])
        #expect(answer == bench.otherAnswer)
        try await live()

        // Where it stands in the file says nothing.
        try await bench.reload([bench.tcp("b", third), "# moved", bench.tcp("chosen", 0, to: bench.other.port)])
        try await live()
        let expected = [
            "ready a 127.0.0.1:\(first)", "ready chosen 127.0.0.1:\(chosen)", "ready b 127.0.0.1:\(second)",
            "ready b 127.0.0.1:\(third)",
        ]
        try await eventually("each is ready once") { bench.ready == expected }
        #expect(await bench.node.stop(grace: .seconds(60)) == .exited(0))
    }

    /// Connections are made all the time, and none is refused; nor is one to a gateway, whose listeners need more than
    /// their own line.
    @Test(arguments: ["tcp", "http"]) func anAddressGoesToAnotherListenerWithoutAGap(_ kind: String) async throws {
        let bench = try Bench()
        let (port, stranger) = (FreePort.next(), FreePort.next())
        func listener(_ name: String, _ port: UInt16) -> String {
            if kind == "tcp" { return bench.tcp(name, port) }
            let route = "{host: a.example, to: \"127.0.0.1:\(bench.echo.port)\"}"
            return "{name: \(name), bind: \"127.0.0.1:\(port)\", protocol: http, routes: [\(route)]}"
        }
        try bench.write([listener("a", port), listener("z", stranger)])
        try await bench.start()
        let unrouted = Array("GET / HTTP/1.1\r\nHost: b.example\r\nConnection: close\r\n\r\n".utf8)
        let callers =
            kind == "tcp"
            ? Callers(sending: [1, 2, 3, 4], expecting: [1, 2, 3, 4])
            : Callers(sending: unrouted, expecting: Array("HTTP/1.1 404 ".utf8))
        try await withThrowingTaskGroup(of: Void.self) { group in
            for _ in 0..<3 { group.addTask { await callers.call(port) } }
            func more() async throws {
                let before = await callers.completed
                try await eventually("calls go on") {
                    let (completed, failures) = await (callers.completed, callers.failures)
                    return completed >= before + 10 || !failures.isEmpty
                }
            }
            try await more()
            for round in 0..<10 {
                // Another name; both at once the other way around.
                let listeners =
                    round % 2 == 0
                    ? [listener("b", port), listener("z", stranger)]
                    : [listener("z", port), listener("b", stranger)]
                try await bench.reload(listeners)
                try await more()
            }
            await callers.stop()
            try await group.waitForAll()
        }
        let failures = await callers.failures
        #expect(failures == [])

        // Another protocol: what it speaks is SOCKS from now on, and the same socket.
        try await bench.reload(["{name: socks, bind: \"127.0.0.1:\(port)\", protocol: socks5}"])
        #expect(try await bench.port(of: "socks") == port)
        #expect(try await Self.method(port) == "0")
        #expect(await bench.node.stop(grace: .seconds(60)) == .exited(0))
    }

    /// A listener for all addresses in the place of one for loopback, and back: the kernel takes them for a conflict.
    @Test func anAddressThatOverlapsIsNoConflict() async throws {
        let bench = try Bench()
        let (port, local) = (FreePort.next(), FreePort.next())
        func hbone(_ address: String) -> String {
            "{name: hbone, bind: \"\(address):\(port)\", protocol: hbone}"
        }
        try bench.write([hbone("127.0.0.1"), bench.tcp("a", local)])
        try await bench.start()
        let stream = try await TCPConversation(port: local)
        for address in ["0.0.0.0", "127.0.0.1", "[::]", "127.0.0.1"] {
            try await bench.reload([hbone(address), bench.tcp("a", local)])
            // Its pipe is not the one by which the test learns of the reload.
            try await eventually("it says where") { bench.ready.last == "ready hbone \(address):\(port)" }
            #expect(await !bench.isRefused(port))
            #expect(try await stream.echo([7]) == [7])
        }
        #expect(await bench.node.stop(grace: .seconds(60)) == .exited(0))
    }

    @Test func aListenerThatCannotBeHadChangesNothing() async throws {
        let bench = try Bench()
        let (port, fine, gone) = (FreePort.next(), FreePort.next(), FreePort.next())
        try bench.write([bench.tcp("a", port), bench.tcp("gone", gone)])
        try await bench.start()
        let stream = try await TCPConversation(port: port)
        let deny = "policy:\n- {name: no, action: DENY, rules: [{}]}"
        let other = FreePort.next()
        let taken = try ChildProcess(
            TestTools.python,
            [
                "-c",
                "import socket, sys; s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); print('has it', flush=True); sys.stdin.read()",
                "\(other)",
            ],
            keepsInputOpen: true
        )
        _ = try await taken.standardOutput.line(containing: "has it")
        try await bench.reload(
            [bench.tcp("a", port, to: bench.other.port), bench.tcp("fine", fine), bench.tcp("new", other)],
            deny,
            expecting: "not reloaded: "
        )
        let message = try await bench.node.standardError.line(containing: "not reloaded: ")
        #expect(message.contains("listener 'new': cannot listen on 127.0.0.1:\(other): another process does"))
        #expect(await bench.isRefused(fine))
        try await bench.echoes(port)
        try await bench.echoes(gone)
        #expect(try await stream.echo([1]) == [1])
        // A file that is wrong is told as at the start, and changes nothing either.
        try await bench.reload(
            [bench.tcp("a", port), bench.tcp("b", port)],
            expecting: "listener 'b' would listen on 127.0.0.1:\(port), which listener 'a' has already"
        )
        try await bench.echoes(port)
        // As soon as it can be had, it is.
        taken.closeInput()
        #expect(try await taken.exit() == .exited(0))
        try await bench.reload([bench.tcp("a", port), bench.tcp("new", other)])
        try await bench.echoes(other)
        #expect(await bench.isRefused(gone))
        #expect(try await stream.echo([2]) == [2])
        #expect(await bench.node.stop(grace: .seconds(60)) == .exited(0))
    }

    @Test func manyReloadsCutNoStream() async throws {
        let bench = try Bench()
        let ports = (0..<4).map { _ in FreePort.next() }
        let hbone = FreePort.next()
        func listeners(_ round: Int) -> [String] {
            // One that stays, one that comes and goes, one that moves, one that changes what it is.
            var list = [bench.tcp("stays", ports[0])]
            if round % 2 == 0 { list.append(bench.tcp("flickers", ports[1])) }
            list.append(bench.tcp("moves\(round % 3)", round % 2 == 0 ? ports[2] : ports[3]))
            let kind = ["socks5", "http-proxy", "sni"][round % 3]
            list.append("{name: changes, bind: \"127.0.0.1:\(hbone)\", protocol: \(kind)}")
            return round % 5 == 0 ? list.reversed() : list
        }
        try bench.write(listeners(0))
        try await bench.start()
        var streams: [TCPConversation] = []
        for index in 0..<200 { streams.append(try await TCPConversation(port: ports[index % 3])) }
        for stream in streams { #expect(try await stream.echo([0]) == [0]) }
        for round in 1...50 {
            try await bench.reload(listeners(round))
            // Each round looks at some of them, the last one at all.
            for (index, stream) in streams.enumerated() where round == 50 || index % 10 == round % 10 {
                #expect(try await stream.echo([UInt8(round)]) == [UInt8(round)])
            }
        }
        #expect(bench.echo.accepted == 200)
        let descriptors = try FileManager.default.contentsOfDirectory(atPath: "/proc/\(bench.node.pid)/fd").count
        #expect(descriptors < 480, "two for each stream, and no listeners of earlier rounds")
        #expect(await bench.node.stop(grace: .seconds(60)) == .exited(0))
    }

    @Test func aNodeThatDrainsOpensNothing() async throws {
        let bench = try Bench()
        let (port, other) = (FreePort.next(), FreePort.next())
        try bench.write([bench.tcp("a", port)])
        try await bench.start(drain: "1h")
        let stream = try await TCPConversation(port: port)
        #expect(try await stream.echo([1]) == [1])
        bench.node.signal(SIGTERM)
        _ = try await bench.node.standardError.line(containing: "draining")
        try await eventually("the listener is closed") { await bench.isRefused(port) }
        try await bench.reload([bench.tcp("a", port), bench.tcp("b", other)])
        #expect(await bench.isRefused(port))
        #expect(await bench.isRefused(other))
        #expect(bench.ready.count == 1)
        #expect(try await stream.echo([2]) == [2])
        // What is decided is decided by the new file all the same.
        try await bench.reload([bench.tcp("a", port)], "policy:\n- {name: no, action: DENY, rules: [{}]}")
        #expect(try await stream.end(finishing: false).1 != .endOfStream)
        #expect(try await bench.node.exit() == .exited(0))
    }

    @Test func whatAReloadHasOpenedIsTakenOverToo() async throws {
        let bench = try Bench()
        let (port, other) = (FreePort.next(), FreePort.next())
        try bench.write([bench.tcp("a", port)])
        try await bench.start("--runtime", bench.directory.path("run"))
        let old = bench.node
        try await bench.reload([bench.tcp("b", port), bench.tcp("c", other)])
        try await bench.start("--runtime", bench.directory.path("run"))
        _ = try await bench.node.standardError.line(containing: "took over 2 listeners from process \(old.pid)")
        #expect(try await old.exit() == .exited(0))
        try await bench.echoes(port)
        try await bench.echoes(other)
        #expect(await bench.node.stop(grace: .seconds(60)) == .exited(0))
    }

    /// Passwords are for whom the new file says, on connections that come.
    @Test func usersComeWithTheListener() async throws {
        let bench = try Bench()
        let port = FreePort.next()
        func socks(_ users: String) -> String {
            "{name: socks, bind: \"127.0.0.1:\(port)\", protocol: socks5\(users)}"
        }
        try bench.directory.write("users", "ann:\(try PasswordHash(of: Array("secret".utf8)))\n")
        try bench.write([socks("")])
        try await bench.start()
        #expect(try await Self.method(port) == "0")
        try await bench.reload([socks(", users: users")])
        #expect(try await Self.method(port) == "2")
        try await bench.reload([socks("")])
        #expect(try await Self.method(port) == "0")
        #expect(await bench.node.stop(grace: .seconds(60)) == .exited(0))
    }

    /// A name server that a reload adds answers, over both, and its names are known to the rest of the node.
    @Test func aNameServerComesAndGoes() async throws {
        let bench = try Bench()
        let (port, names) = (FreePort.next(), FreePort.next())
        let endpoint = "- {match: \"db.test:5432\", hbone: \"127.0.0.1:1\"}"
        func dns(_ ttl: Int, _ block: String) -> String {
            "{name: names, bind: \"127.0.0.1:\(names)\", protocol: dns, names: {upstreams: [\"127.0.0.1:1\"], ttl: \(ttl), ipv4: \(block)}}"
        }
        func ask(_ arguments: String...) async throws -> String {
            try await ChildProcess.run(
                TestTools.python,
                ["\(TestTools.repository)/Tests/Peers/network/names.py", "ask", "127.0.0.1", "\(names)", "db.test"]
                    + arguments
            ).standardOutput.trimmingCharacters(in: .whitespacesAndNewlines)
        }
        try bench.write([bench.tcp("a", port)], endpoint)
        try await bench.start()
        try await bench.reload([bench.tcp("a", port), dns(7, "198.18.0.0/24")], endpoint)
        #expect(try await ask("A").hasPrefix("NOERROR 198.18.0."))
        #expect(try await ask("A", "tcp").hasPrefix("NOERROR 198.18.0."))
        #expect(try await ask("HTTPS") == "NOERROR SOA 7")
        try await bench.reload([bench.tcp("a", port), dns(9, "198.19.0.0/24")], endpoint)
        #expect(try await ask("A").hasPrefix("NOERROR 198.19.0."))
        #expect(try await ask("HTTPS") == "NOERROR SOA 9")
        try await bench.reload([bench.tcp("a", port)], endpoint)
        #expect(await bench.isRefused(names))
        let expected = ["ready a 127.0.0.1:\(port)", "ready names 127.0.0.1:\(names)"]
        try await eventually("each is ready once") { bench.ready == expected }
        #expect(await bench.node.stop(grace: .seconds(60)) == .exited(0))
    }

    // MARK: -

    /// What a SOCKS listener chooses of "none" (0) and "by password" (2).
    private static func method(_ port: UInt16) async throws -> String {
        let script = """
            import socket, sys
            s = socket.create_connection(("127.0.0.1", int(sys.argv[1])), 20)
            s.sendall(bytes([5, 2, 0, 2]))
            print(s.recv(2)[1])
            """
        let output = try await ChildProcess.run(TestTools.python, ["-c", script, "\(port)"])
        return output.standardOutput.trimmingCharacters(in: .whitespacesAndNewlines)
    }

    private actor Callers {
        private(set) var completed = 0
        private(set) var failures: [String] = []
        private var isStopped = false
        private let sent: [UInt8]
        /// How what comes back begins.
        private let expected: [UInt8]

        init(sending sent: [UInt8], expecting expected: [UInt8]) { (self.sent, self.expected) = (sent, expected) }

        func call(_ port: UInt16) async {
            while !isStopped, !Task.isCancelled, failures.isEmpty {
                do {
                    let (received, ending) = try await TCPClient.exchange(port: port, sending: sent)
                    if received.starts(with: expected), ending == .endOfStream {
                        completed += 1
                    } else {
                        failures.append("\(received.count) bytes, \(ending)")
                    }
                } catch {
                    failures.append("\(error)")
                }
            }
        }

        func stop() { isStopped = true }
    }
}

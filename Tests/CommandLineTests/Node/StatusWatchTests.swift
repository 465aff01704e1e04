import Foundation
import TestPeers
import Testing

/// `status --watch` of a node: what its administration says, each second, for as long as somebody looks.
@Suite(.timeLimit(.minutes(10))) struct StatusWatchTests {
    private struct Tick: Decodable {
        struct Peer: Decodable {
            var peer: String
            var path: String
            var state: String
            var identity: String?
            var roundTripTime: Double?
            var sentPerSecond: Double?
            var receivedPerSecond: Double?
            var streams: Int
            var age: Double?
            var why: String?
            var failure: String?
        }

        struct Source: Decodable {
            var source: String
            var over: String?
            var streams: Int
            var sentPerSecond: Double?
        }

        var time: String
        var node: String
        var streams: Int
        var peers: [Peer]
        var sources: [Source]
        var more: Int?
        var error: String?

        init?(_ line: String) {
            guard let tick = try? JSONDecoder().decode(Tick.self, from: Data(line.utf8)) else { return nil }
            self = tick
        }
    }

    /// A client and a server, each a process with an administration.
    private struct Nodes {
        let directory = TemporaryDirectory()
        let backend: EchoServer
        let server: ChildProcess
        var client: ChildProcess
        let entry = FreePort.next()
        let serverAdmin = FreePort.next()
        var socket: String { directory.path("admin.sock") }
        let destination = "db.mesh:7"

        init() async throws {
            let (certificates, hbone) = (TestCertificates.shared, FreePort.next())
            backend = try EchoServer()
            let far = try directory.write(
                "server.yaml",
                NodeFile.server(identity: certificates.path(.server), ports: [backend.port], bind: hbone)
                    + "\nadmin: \"127.0.0.1:\(serverAdmin)\"\n"
            )
            server = try ChildProcess(TestTools.bootstrap, ["node", "--config", far])
            _ = try await server.standardOutput.line(containing: "ready hbone")
            try directory.write(
                "client.yaml",
                """
                identity: \(certificates.path(.client))
                listeners:
                - {name: in, bind: "127.0.0.1:\(entry)", protocol: tcp, forwardTo: "\(destination)"}
                endpoints:
                - {match: "\(destination)", address: "127.0.0.1:\(backend.port)", hbone: "127.0.0.1:\(hbone)"}
                admin: \(directory.path("admin.sock"))

                """
            )
            client = try await Self.start(directory)
        }

        static func start(_ directory: TemporaryDirectory) async throws -> ChildProcess {
            let node = try ChildProcess(TestTools.bootstrap, ["node", "--config", directory.path("client.yaml")])
            _ = try await node.standardOutput.line(containing: "ready in")
            return node
        }

        func stop() async {
            _ = await client.stop()
            _ = await server.stop()
        }
    }

    private func tick(
        _ what: String,
        of watch: ChildProcess,
        after line: Int = 0,
        where predicate: @escaping (Tick) -> Bool
    ) async throws -> Tick {
        var found: Tick?
        try await eventually(what) {
            found = watch.standardOutput.lines.dropFirst(line).lazy.compactMap(Tick.init).first(where: predicate)
            return found != nil
        }
        return try #require(found)
    }

    @Test func peersPathsAndRates() async throws {
        let nodes = try await Nodes()
        let watch = try ChildProcess(
            TestTools.bootstrap,
            ["status", "--watch", "--config", nodes.directory.path("client.yaml"), "--json"]
        )
        // Nothing has been asked for: there is no peer yet.
        let first = try await tick("a tick", of: watch) { _ in true }
        #expect(first.node.hasPrefix("spiffe://") && first.peers.isEmpty && first.streams == 0 && first.error == nil)
        let talk = try await TCPConversation(port: nodes.entry)
        #expect(try await talk.echo([1]) == [1])
        let open = try await tick("the peer", of: watch) {
            $0.peers.first.map { $0.streams == 1 && $0.roundTripTime != nil } == true
        }
        let peer = try #require(open.peers.first)
        #expect(peer.path == "h2" && peer.state == "inUse" && open.peers.count == 1 && open.streams == 1)
        #expect(peer.identity == "spiffe://mesh.example/ns/prod/sa/server", "\(peer)")
        #expect(peer.roundTripTime ?? 0 > 0 && peer.age ?? -1 >= 0 && peer.why?.isEmpty == false, "\(peer)")
        #expect(open.sources.isEmpty, "what local users ask for is told at the peer")
        #expect(try await talk.echo([UInt8](repeating: 7, count: 300_000)).count == 300_000)
        // Both in one second, or not.
        _ = try await tick("bytes", of: watch) { $0.peers.first?.sentPerSecond ?? 0 > 1000 }
        _ = try await tick("bytes back", of: watch) { $0.peers.first?.receivedPerSecond ?? 0 > 1000 }
        _ = try await tick("silence", of: watch, after: watch.standardOutput.lines.count) {
            $0.peers.first?.sentPerSecond == 0
        }
        // One object a second, whatever there is.
        for line in watch.standardOutput.lines.dropLast() { #expect(Tick(line) != nil, "\(line)") }
        watch.signal(SIGINT)
        #expect(try await watch.exit() == .exited(0))
        #expect(watch.standardError.text.isEmpty, "\(watch.standardError.text)")
        await nodes.stop()
    }

    /// The other end of the same stream.
    @Test func whoHasStreamsToIt() async throws {
        let nodes = try await Nodes()
        let watch = try ChildProcess(
            TestTools.bootstrap,
            ["status", "--watch", "--admin", "127.0.0.1:\(nodes.serverAdmin)", "--output", "json"]
        )
        let talk = try await TCPConversation(port: nodes.entry)
        #expect(try await talk.echo([1]) == [1])
        let tick = try await tick("the source", of: watch) { !$0.sources.isEmpty }
        #expect(tick.sources.map(\.source) == ["spiffe://mesh.example/ns/prod/sa/client"], "\(tick)")
        #expect(tick.sources.first?.over == "h2" && tick.sources.first?.streams == 1 && tick.peers.isEmpty)
        watch.signal(SIGTERM)
        #expect(try await watch.exit() == .exited(0))
        await nodes.stop()
    }

    @Test func aNodeThatGoesAndComesBack() async throws {
        var nodes = try await Nodes()
        let watch = try ChildProcess(TestTools.bootstrap, ["status", "--watch", "--admin", nodes.socket])
        _ = try await watch.standardOutput.line { $0.contains("spiffe://") && $0.hasSuffix(": 0 streams") }
        nodes.client.signal(SIGKILL)
        _ = try await nodes.client.exit()
        let gone = try await watch.standardOutput.line(containing: "not answering since 20")
        #expect(gone.contains("spiffe://"), "it is told which: \(gone)")
        let before = watch.standardOutput.lines.count
        nodes.client = try await Nodes.start(nodes.directory)
        let talk = try await TCPConversation(port: nodes.entry)
        #expect(try await talk.echo([1]) == [1])
        let back = try await watch.standardOutput.line { $0.contains("\(nodes.destination) h2 in use") }
        #expect(back.contains("1 stream") && !back.contains("not answering"), "\(back)")
        // A line a second, and not one for each thing that there is to say.
        #expect(watch.standardOutput.lines.count > before)
        for line in watch.standardOutput.lines.dropLast() {
            #expect(line.wholeMatch(of: /20..-..-..T..:..:..Z .*/) != nil, "\(line)")
        }
        watch.signal(SIGINT)
        #expect(try await watch.exit() == .exited(0))
        await nodes.stop()
    }

    /// One that is there, and stopped: its socket takes connections, and nobody answers.
    @Test func aNodeThatIsStoppedIsToldBeforeItTimesOut() async throws {
        let nodes = try await Nodes()
        let watch = try ChildProcess(TestTools.bootstrap, ["status", "--watch", "--admin", nodes.socket, "--json"])
        _ = try await tick("a tick", of: watch) { $0.error == nil }
        nodes.client.signal(SIGSTOP)
        let silent = try await tick("silence", of: watch) { $0.error != nil }
        // Nobody has given up yet: that would have a reason.
        #expect(silent.error?.wholeMatch(of: /not answering since 20..-..-..T..:..:..Z/) != nil, "\(silent)")
        #expect(silent.node.hasPrefix("spiffe://"))
        nodes.client.signal(SIGCONT)
        _ = try await tick("an answer", of: watch, after: watch.standardOutput.lines.count) { $0.error == nil }
        watch.signal(SIGINT)
        #expect(try await watch.exit() == .exited(0))
        await nodes.stop()
    }

    /// What answers is no node, or a hostile one.
    @Test func namesEndNoLine() async throws {
        let pages = [
            "/certificates": #"{"identity": "me"}"#, "/streams": #"{"total": 0, "streams": []}"#,
            "/paths":
                #"{"peers": [{"name": "evil\nforged", "paths": [{"path": "h2", "state": "inUse", "streams": 0}]}]}"#,
        ]
        let server = try PagesServer(pages)
        let watch = try ChildProcess(
            TestTools.bootstrap,
            ["status", "--watch", "--admin", "127.0.0.1:\(server.port)"]
        )
        let line = try await watch.standardOutput.line(containing: "evil")
        #expect(line.contains("me: 0 streams; evil?forged h2 in use"), "\(line)")
        watch.signal(SIGINT)
        #expect(try await watch.exit() == .exited(0))
        // Not what Swift calls it.
        let other = try PagesServer(["/certificates": #"{"identity": 7}"#])
        let refused = try await ChildProcess.run(
            TestTools.bootstrap,
            ["status", "--watch", "--admin", "127.0.0.1:\(other.port)"]
        )
        #expect(refused.status == .exited(6), "\(refused)")
        #expect(
            refused.standardError.contains("one of another release than this bootstrap: 'identity' is not a text"),
            "\(refused.standardError)"
        )
    }

    /// A terminal has a table, in place, and Ctrl-C is how it is meant to end.
    @Test func aTableOnATerminal() async throws {
        let nodes = try await Nodes()
        let talk = try await TCPConversation(port: nodes.entry)
        #expect(try await talk.echo([1]) == [1])
        let person = """
            import fcntl, os, pty, struct, sys, termios
            pid, terminal = pty.fork()
            if pid == 0:
                os.execvp(sys.argv[1], sys.argv[1:])
            fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 200, 0, 0))
            seen = b""
            while seen.count(b"in use") < 3:
                seen += os.read(terminal, 4096)
            os.write(terminal, b"\\x03")
            try:
                while os.read(terminal, 4096):
                    pass
            except OSError:
                pass
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            sys.stdout.write(seen.decode())
            sys.exit(code)
            """
        let output = try await ChildProcess.run(
            "python3",
            ["-c", person, TestTools.bootstrap, "status", "--watch", "--admin", nodes.socket],
            within: .seconds(60)
        )
        #expect(output.status == .exited(0), "\(output)")
        let text = output.standardOutput
        #expect(text.contains(/peer +path +state +RTT +sent +received +streams +since +why/), "\(text)")
        #expect(text.contains(/db\.mesh:7 +h2 +in use +[0-9.]+ ms/), "\(text)")
        // It goes back up for each table.
        #expect(text.contains("\u{1B}["))
        await nodes.stop()
    }

    /// A node on another machine is asked over SSH.
    @Test func aNodeElsewhere() async throws {
        let (nodes, journey) = (try await Nodes(), try await Journey())
        for place in [nodes.socket, "127.0.0.1:\(nodes.serverAdmin)"] {
            let watch = try journey.start(
                ["status", journey.destination, "--watch", "--admin", place, "--json"] + journey.sshOptions
            )
            let tick = try await tick("a tick from \(place)", of: watch) { _ in true }
            #expect(tick.error == nil && tick.node.hasPrefix("spiffe://mesh.example/"))
            watch.signal(SIGINT)
            #expect(try await watch.exit() == .exited(0))
        }
        let refused = try await journey.run(
            ["status", journey.destination, "--watch", "--admin", nodes.socket, "-o", "BatchMode=yes"]
                + journey.sshOptions.map { $0 == journey.sshd.userKey ? "/dev/null" : $0 }
        )
        #expect(refused.status == .exited(4), "\(refused)")
        await journey.stop()
        await nodes.stop()
    }

    @Test func whatCannotBeWatched() async throws {
        let directory = TemporaryDirectory()
        let silent = try directory.write(
            "node.yaml",
            "identity: i\nlisteners: [{name: a, bind: \"127.0.0.1:1\", protocol: hbone}]\n"
        )
        for (arguments, code, mention) in [
            (["--watch", "--admin", directory.path("none.sock")], Int32(6), "no node answers"),
            (["--watch", "--admin", "nonsense"], 2, "is not IP:PORT"),
            (["--watch", "--config", silent], 2, "it has no 'admin'"),
            (["--watch", "--config", silent, "--admin", "127.0.0.1:1"], 2, "one of the two"),
            (["--admin", "127.0.0.1:1"], 2, "are for --watch"),
            (["device1", "--watch", "--config", silent], 2, "on this machine"),
        ] {
            let output = try await ChildProcess.run(
                TestTools.bootstrap,
                ["status"] + arguments,
                environment: ["BOOTSTRAP_HOME": directory.path("home")]
            )
            #expect(output.status == .exited(code), "\(arguments): \(output)")
            #expect(output.standardError.contains(mention), "\(arguments): \(output.standardError)")
        }
        // Something else listens there, and it answers.
        let other = try EchoServer()
        let output = try await ChildProcess.run(
            TestTools.bootstrap,
            ["status", "--watch", "--admin", "127.0.0.1:\(other.port)"]
        )
        #expect(output.status == .exited(6), "\(output)")
    }
}

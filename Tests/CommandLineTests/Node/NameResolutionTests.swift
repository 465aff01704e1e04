import Foundation
import TestPeers
import Testing

/// Names on a machine whose name server never answers, in a network and with files of its own.
@Suite(.enabled(if: getuid() == 0, "it needs namespaces"), .timeLimit(.minutes(10)))
struct NameResolutionTests {
    private let directory = TemporaryDirectory()

    /// Runs a shell script there.
    private func run(_ script: String) async throws -> ChildProcess.Output {
        try directory.write("resolv.conf", "nameserver 127.0.0.1\n")
        try directory.write("nsswitch.conf", "hosts: files dns\npasswd: files\n")
        let file = try directory.write(
            "script",
            """
            set -e
            ip link set lo up
            for f in resolv.conf nsswitch.conf; do mount --bind '\(directory.path)'/$f /etc/$f; done
            \(script)
            """
        )
        return try await ChildProcess.run(
            "unshare",
            ["--net", "--mount", "sh", file],
            environment: ["BOOTSTRAP_HOME": directory.path("home"), "BIN": TestTools.bootstrap, "W": directory.path],
            within: .seconds(200)
        )
    }

    @Test func aThousandConnectionsToANameThatNobodyAnswersAreNoThreads() async throws {
        try directory.write(
            "node.yaml",
            """
            identity: \(directory.path("id"))
            listeners:
            - {name: web, bind: "127.0.0.1:0", protocol: tcp, forwardTo: "web.test:80"}
            default: direct
            """
        )
        try directory.write(
            "count.py",
            """
            import os, resource, socket, subprocess
            resource.setrlimit(resource.RLIMIT_NOFILE, (4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
            server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            server.bind(("127.0.0.1", 53))
            node = subprocess.Popen([os.environ["BIN"], "node", "--config", os.environ["W"] + "/node.yaml"],
                                    stdout=subprocess.PIPE, text=True)
            port = int(node.stdout.readline().rsplit(":", 1)[1])
            task = f"/proc/{node.pid}/task"
            before = len(os.listdir(task))
            connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(1000)]
            assert b"\\3web\\4test" in server.recv(1500)
            # All are accepted when the last one's descriptor is there.
            while len(os.listdir(f"/proc/{node.pid}/fd")) < 1000: pass
            print("threads", len(os.listdir(task)) - before)
            node.kill()
            """
        )
        let output = try await run(
            """
            "$BIN" ca init --trust-domain t.example >/dev/null
            "$BIN" ca issue --id ns/prod/sa/gw --out "$W/id" >/dev/null
            exec python3 "$W/count.py"
            """
        )
        let count = output.standardOutput.split(separator: " ").last.flatMap { Int($0.filter(\.isNumber)) }
        #expect(try #require(count, "\(output.standardError)") < 20, "\(output.standardOutput)")
    }

    @Test func aNameThatNobodyAnswersIsSaidToBeThat() async throws {
        let output = try await run(
            """
            python3 -c 'import socket, time; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("127.0.0.1", 53)); print("bound", flush=True); time.sleep(100)' >"$W/bound" &
            server=$!
            while ! grep -q bound "$W/bound"; do :; done
            code=0; "$BIN" exec -F none root@silent.test -- true </dev/null || code=$?
            kill $server
            exit $code
            """
        )
        #expect(output.status == .exited(6), "\(output.standardError)")
        #expect(
            output.standardError.contains("'silent.test' does not resolve: no name server has answered in time"),
            "\(output.standardError)"
        )
    }
}

import Foundation
import Streams
import TestPeers
import Testing

/// Packets that vanish on the way: two machines (network namespaces) with a packet filter between them. Needs root.
@Suite(.serialized, .timeLimit(.minutes(10)), .enabled(if: getuid() == 0)) struct BlackHoleTests {
    /// A server node, sshd and an echo server on the far machine, a client node on the near one.
    private final class Site: Sendable {
        let machines: SeparateMachines
        let directory = TemporaryDirectory()
        let sshd: OpenSSHServer
        let hbone = FreePort.next()
        private let entry = FreePort.next()
        private let echo: ChildProcess
        private let server: ChildProcess
        let client: ChildProcess

        init(path: String) async throws {
            machines = try await SeparateMachines()
            sshd = try await OpenSSHServer(
                address: SeparateMachines.farAddress,
                launcher: machines.on(.far)
            )
            let python = TestTools.python
            echo = try machines.start(
                .far,
                [python, "-u", TestTools.repository + "/Tests/Peers/echo.py"],
                keepsInputOpen: true
            )
            let output = echo.standardOutput
            try await eventually("the echo server listens") { output.bytes.contains(UInt8(ascii: "\n")) }
            let backend = try #require(UInt16(output.lines[0]))
            let certificates = TestCertificates.shared
            let yaml = NodeFile.server(identity: certificates.path(.server), ports: [backend], bind: hbone)
            let serverFile = try directory.write(
                "server.yaml",
                yaml.replacingOccurrences(of: "127.0.0.1:\(hbone)", with: "0.0.0.0:\(hbone)")
            )
            server = try machines.start(.far, [TestTools.bootstrap, "node", "--config", serverFile, "--loops", "1"])
            _ = try await server.standardOutput.line(containing: "ready hbone")
            let key = try sshd.directory.read("host_ed25519.pub").split(separator: " ").prefix(2).joined(separator: " ")
            let address = SeparateMachines.farAddress
            let known = try directory.write("known_hosts", "[\(address)]:\(sshd.port) \(key)\n")
            let config = try directory.write("ssh_config", "", permissions: 0o600)
            let clientFile = try directory.write(
                "client.yaml",
                """
                identity: \(certificates.path(.client))
                listeners:
                - {name: in, bind: "127.0.0.1:\(entry)", protocol: tcp, forwardTo: "127.0.0.1:\(backend)"}
                endpoints:
                - match: "127.0.0.1:\(backend)"
                  hbone: "\(address):\(hbone)"
                  identity: "spiffe://mesh.example/ns/prod/sa/server"
                  path: \(path)
                  ssh: {destination: "\(OpenSSHServer.user)@\(address):\(sshd.port)", identityFile: \(sshd.userKey), knownHosts: \(known), config: \(config)}
                """
            )
            client = try machines.start(
                .near,
                [TestTools.bootstrap, "node", "--config", clientFile, "--loops", "1", "--log-level", "info"]
            )
            _ = try await client.standardOutput.line(containing: "ready in")
        }

        private var driver: [String] {
            [TestTools.python, TestTools.repository + "/Tests/Peers/network/exchange.py", "127.0.0.1:\(entry)"]
        }

        func exchange(_ size: Int) async throws {
            #expect(try await machines.run(.near, driver + ["\(size)"]) == "ok\n")
        }

        /// An exchange that goes on while something else is done.
        func exchanging(_ size: Int) throws -> ChildProcess { try machines.start(.near, driver + ["\(size)"]) }

        /// A stream that goes on until somebody ends it.
        func conversation() async throws -> ChildProcess {
            let process = try machines.start(.near, driver + ["--forever"])
            _ = try await process.standardOutput.line(containing: "flowing")
            return process
        }

        func says(_ text: String) async throws {
            _ = try await client.standardError.line(containing: text, within: .seconds(90))
        }

        func stop() async {
            await client.stop()
            await server.stop()
            await echo.stop()
            await sshd.stop()
        }
    }

    @Test func aPathThatSwallowsPacketsIsLeftAndTakenBack() async throws {
        let site = try await Site(path: "auto")
        try await site.exchange(200_000)
        try await site.says("path h2: ")
        try await site.machines.drop(site.hbone)
        // The open connection is silent, and new ones are too.
        try await site.exchange(300_000)
        try await site.says("path h2 → ")
        try await site.machines.dropNothing()
        try await site.says("→ h2: h2 is back and stable")
        try await site.exchange(400_000)
        await site.stop()
    }

    /// Handshakes and PINGs pass, bytes do not. What was open is lost; whoever comes after it is carried in small
    /// packets.
    @Test func aWayThatLosesLargePacketsCarriesSmallOnes() async throws {
        let site = try await Site(path: "h2")
        try await site.machines.dropPackets(largerThan: 1300)
        // Its bytes are never acknowledged.
        #expect(try await site.exchanging(200_000).exit() != .exited(0))
        try await site.exchange(300_000)
        try await site.exchange(400_000)
        await site.stop()
    }

    /// TCP delivers what was sent, and whoever wants a stream meanwhile waits for the path, or for another one.
    @Test(arguments: ["h2", "auto"]) func anOpenStreamOutlivesTwoSecondsOfLostNetwork(_ path: String) async throws {
        let site = try await Site(path: path)
        try await site.exchange(200_000)
        let conversation = try await site.conversation()
        try await site.machines.drop(site.hbone)
        let other = try site.exchanging(1000)
        // The length of the outage, longer than the 1.5 s after which its path was given up.
        try await Task.sleep(for: .seconds(2.5))
        try await site.machines.dropNothing()
        _ = try await conversation.standardOutput.line(containing: "flowing again")
        let isOver = conversation.standardOutput.text.contains("cut")
        #expect(!isOver)
        let status = try await other.exit()
        #expect(status == .exited(0))
        await conversation.stop()
        await site.stop()
    }

    /// SSH has no other path behind it here: its streams are cut by the keep-alive, and it is logged in again.
    @Test func anSSHSessionInABlackHoleIsNoticedAndMadeAnew() async throws {
        let site = try await Site(path: "ssh")
        try await site.exchange(200_000)
        let conversation = try await site.conversation()
        try await site.machines.drop(site.sshd.port)
        _ = try await conversation.standardOutput.line(containing: "cut", within: .seconds(90))
        // By the keep-alive: TCP itself would have given up later.
        try await site.says("a question was not answered")
        try await site.machines.dropNothing()
        try await site.exchange(300_000)
        try await site.sshd.logged("Accepted publickey", count: 2)
        await conversation.stop()
        await site.stop()
    }

    /// The best path that is left is an SSH session which died in silence: the node goes back to HTTP/2.
    @Test func aNodeLeavesADeadSSHSessionForHTTP2() async throws {
        let site = try await Site(path: "auto")
        try await site.machines.drop(site.hbone)
        try await site.exchange(200_000)
        try await site.says("h2-over-ssh: ")
        let conversation = try await site.conversation()
        try await site.machines.dropNothing()
        try await site.machines.drop(site.sshd.port)
        _ = try await conversation.standardOutput.line(containing: "cut", within: .seconds(90))
        try await site.says("→ h2: ")
        try await site.exchange(300_000)
        await conversation.stop()
        await site.stop()
    }
}

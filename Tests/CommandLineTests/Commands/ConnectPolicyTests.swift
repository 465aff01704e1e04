import Foundation
import TestPeers
import Testing

/// What a device allows is the same on every path.
@Suite(.timeLimit(.minutes(10))) struct ConnectPolicyTests {
    @Test(arguments: ["h2", "h2-over-ssh", "ssh"]) func thePolicyOfADeviceHoldsOnEveryPath(path: String) async throws {
        let journey = try await Journey()
        let (allowed, other) = (try EchoServer(), try EchoServer())
        try await journey.makeAuthority()
        let enrolled = try await journey.enroll(allow: allowed.port)
        #expect(enrolled.succeeded, "\(enrolled.standardError)")
        func connect(_ destination: String, _ input: [UInt8]) async throws -> ChildProcess.Output {
            try await journey.run(["connect", "device1", "--path", path, "-W", destination], input: input)
        }
        let served = try await connect("localhost:\(allowed.port)", Array("hello".utf8))
        #expect(served.succeeded && served.standardOutput == "hello", "\(served)")
        #expect(!served.standardError.contains("No policy"))

        // Another port, another machine, and a name that is not the device's.
        for destination in ["localhost:\(other.port)", "10.255.255.1:\(allowed.port)", "example.com:\(allowed.port)"] {
            let refused = try await connect(destination, [])
            #expect(refused.status == .exited(5), "\(destination): \(refused)")
            #expect(refused.standardOutput.isEmpty)
            if path == "ssh" {
                let words = destination.replacing("localhost:", with: "")
                #expect(refused.standardError.contains("Add it: bootstrap allow device1 \(words)"), "\(refused)")
                #expect(refused.standardError.contains("which holds on path ssh too"), "\(refused)")
            }
        }
        #expect(other.accepted == 0)
        await journey.stop()
    }

    /// A rule that names its transports forbids the downgrade to another, and the device knows what carried a stream.
    @Test func aForbiddenDowngradeSaysSo() async throws {
        let journey = try await Journey()
        let backend = try EchoServer()
        try await journey.makeAuthority()
        #expect(try await journey.enroll(allow: backend.port).succeeded)
        let file = "device/bootstrap/state/node.yaml"
        let rule = "to: [{ports: [\(backend.port)]}]"
        let text = try journey.directory.read(file)
        try #require(text.contains(rule))
        try journey.directory.write(file, text.replacing(rule, with: "\(rule)\n    when: [{transport: [h2]}]"))
        try await journey.reloadNode()
        let native = try await journey.run(
            ["connect", "device1", "--path", "h2", "-W", "localhost:\(backend.port)"],
            input: Array("hello".utf8)
        )
        #expect(native.succeeded && native.standardOutput == "hello", "\(native)")
        let downgraded = try await journey.run(
            ["connect", "device1", "--path", "h2-over-ssh", "-W", "localhost:\(backend.port)"],
            input: []
        )
        #expect(downgraded.status == .exited(5), "\(downgraded)")
        #expect(downgraded.standardError.contains("policy does not allow it over h2-over-ssh"), "\(downgraded)")
        #expect(backend.accepted == 1)
        await journey.stop()
    }

    /// A way that no policy decides about is named as such.
    @Test func aPathWithoutPolicySaysSo() async throws {
        let journey = try await Journey()
        let backend = try EchoServer()
        try await journey.makeAuthority()
        #expect(try await journey.enroll(allow: 1).succeeded)
        // As an earlier release has left it.
        let ledger = journey.directory.path("home/.bootstrap/ledger.sqlite")
        let forgotten = try await ChildProcess.run(
            "python3",
            [
                "-c",
                """
                import json, sqlite3, sys
                db = sqlite3.connect(sys.argv[1])
                record = json.loads(db.execute('SELECT record FROM devices').fetchone()[0])
                assert record.pop('allowed') == ['1']
                db.execute('UPDATE devices SET record = ?', (json.dumps(record),))
                db.commit()
                """, ledger,
            ]
        )
        #expect(forgotten.succeeded, "\(forgotten.standardError)")
        let enrolled = try await journey.run(
            ["connect", "device1", "--path", "ssh", "-W", "localhost:\(backend.port)"],
            input: [65]
        )
        #expect(enrolled.succeeded && enrolled.standardOutput == "A", "\(enrolled)")
        #expect(enrolled.standardError.contains("No policy of device1 is known here"))
        await journey.stop()
    }
}

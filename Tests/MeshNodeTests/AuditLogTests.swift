import H2Transport
import MeshIdentity
import MeshNode
import Platform
import Streams
import TestPeers
import Testing

/// What policies that decide nothing write to the log.
@Suite(.timeLimit(.minutes(10))) struct AuditLogTests {
    @Test("each match of an AUDIT rule is in the log, however many there are; those of dryRun are limited")
    func eachMatch() async throws {
        let certificates = TestCertificates.shared
        let yaml = """
            identity: \(certificates.path(.server))
            listeners:
            - {name: hbone, bind: "127.0.0.1:0", protocol: hbone}
            policy:
            - {name: watch, action: AUDIT, rules: [{}]}
            - {name: trial, action: DENY, dryRun: true, rules: [{}]}
            """
        let log = LogRecorder()
        let node = Node(try NodeConfiguration.parse(yaml, file: "node"), loops: 1, logger: log.logger)
        let port = try #require(try await node.start().first).address.port
        let client = try await HBONEClient(credentials: .directory(certificates.path(.client)))
        let peer = HBONEPeer(try Authority(parsing: "127.0.0.1:\(port)"), expecting: .anyTrusted)
        let start = ContinuousClock.now
        // Some ask for what was asked for within the same second, of which the node makes no plan anew.
        for number in 1...25 {
            let destination = try Authority(parsing: "192.0.2.1:\(number / 5 * 5 + 1)")
            await #expect(throws: ConnectFailure.self) {
                try await client.withStream(to: destination, through: peer) { _ in }
            }
        }
        let audits = log.lines.filter { $0.contains("audited by policy 'watch'") }
        #expect(audits.count == 25)
        #expect(audits.last?.contains("192.0.2.1:26") == true)
        #expect(audits.last?.contains("spiffe://mesh.example/ns/prod/sa/client") == true)
        let trials = log.lines.filter { $0.contains("dry run: would be denied by policy 'trial'") }
        // So many lines of a peer in ten seconds: all of them where that took longer.
        #expect(trials.count >= 10 && (trials.count < 25 || ContinuousClock.now - start > .seconds(10)))
        await client.shutDown()
        await node.drain(deadline: .seconds(1))
    }
}

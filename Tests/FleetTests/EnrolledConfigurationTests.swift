import Foundation
import MeshIdentity
import SSHSignal
import Testing

@testable import Agent
@testable import Fleet

/// What a device's node.yaml says of what others may reach, for its operator.
@Suite struct EnrolledConfigurationTests {
    private func text(_ ports: [UInt16], _ hosts: [String], reverse: [String]? = nil) throws -> String {
        NodeConfigurationFile.text(
            identity: "/opt/bootstrap/state/identity",
            id: try SPIFFEID("spiffe://test.example/ns/devices/sa/dev"),
            node: .init(allowPorts: ports, renewFrom: "10.0.0.1:1", allowHosts: hosts, reverse: reverse)
        )
    }

    @Test func whatAnEnrolmentHasWrittenIsRead() throws {
        for (ports, hosts) in [([], []), ([80], []), ([22, 80], ["10.0.0.9:554"]), ([], ["10.0.0.9:554"])]
            as [([UInt16], [String])]
        {
            let file = try text(ports, hosts, reverse: ["gw:15008"])
            #expect(EnrolledConfiguration.allowed(in: file) == ports.map(String.init) + hosts, "\(file)")
        }
    }

    @Test func ofWhatOthersHaveWrittenNothingIsKnown() throws {
        let file = try text([22], ["10.0.0.9:554"])
        for (old, new) in [
            ("# Written by", "# By"), ("name: enrolled", "name: mine"), ("ALLOW", "DENY"), ("ports:", "hosts:"),
            ("direct: true", "address: \"a:1\""), ("[22]", "[22-24]"), ("    to:", "    when: []\n    to:"),
            ("policy:", "policy: ["),
        ] {
            #expect(file.contains(old))
            #expect(EnrolledConfiguration.allowed(in: file.replacingOccurrences(of: old, with: new)) == nil, "\(new)")
        }
    }
}

import MeshIdentity
import SSHSignal
import TestDevices
import TestPeers
import Testing

@testable import Agent

/// What the operator does not name stays as the device has it.
@Suite struct NodeConfigurationFileTests {
    private func written(_ request: SignalMessage.NodeRequest) throws -> String {
        try NodeConfigurationFile.text(
            identity: "/opt/a \"b\"/identity",
            id: SPIFFEID("spiffe://demo.example/ns/default/sa/dev7"),
            node: request
        )
    }

    @Test(arguments: [
        SignalMessage.NodeRequest(bind: "0.0.0.0", port: 15008, allowPorts: [22, 80], renewFrom: "10.0.0.1:15012"),
        .init(bind: "::", port: 0, allowHosts: ["10.0.0.9:554", "cam.lan:80"]),
        .init(bind: "127.0.0.1", port: 1),
    ])
    func whatIsWrittenIsRead(request: SignalMessage.NodeRequest) throws {
        var expected = request
        expected.allowHosts = request.allowHosts ?? []
        #expect(NodeConfigurationFile.request(in: try written(request)) == expected)
    }

    @Test func anotherFileIsNone() {
        #expect(NodeConfigurationFile.request(in: "identity: x\nlisteners: []\n") == nil)
        #expect(NodeConfigurationFile.request(in: "") == nil)
    }

    @Test func anIssuerThatIsOfferedIsTakenWhereItIsReached() throws {
        let offer = SignalMessage.NodeRequest(keeps: ["renewFrom"], offersRenewal: "*:15012")
        #expect(offer.completed(by: nil) { $0.replacing("*", with: "10.0.0.1") }.renewFrom == "10.0.0.1:15012")
        #expect(offer.completed(by: nil) { _ in nil }.renewFrom == nil)
        // What it has stays, and is not asked after.
        let present = SignalMessage.NodeRequest(renewFrom: "10.0.0.2:1")
        #expect(offer.completed(by: present) { _ in "10.0.0.1:15012" }.renewFrom == "10.0.0.2:1")
        let port = try LoopbackPort()
        #expect(!Reachability.accepts("127.0.0.1") && !Reachability.accepts("host.lan:80"))
        #expect(!Reachability.accepts("127.0.0.1:\(FreePort.next())"))
        #expect(Reachability.accepts("127.0.0.1:\(port.port)"))
    }

    @Test func whatIsNotNamedStays() {
        let present = SignalMessage.NodeRequest(
            bind: "::",
            port: 1234,
            allowPorts: [80],
            renewFrom: "10.0.0.1:15012",
            allowHosts: ["10.0.0.9:554"]
        )
        let silent = SignalMessage.NodeRequest(keeps: ["bind", "port", "renewFrom", "allow", "of a later release"])
        #expect(silent.completed(by: present) == present)
        #expect(silent.completed(by: nil).allowed == [])
        var named = SignalMessage.NodeRequest(bind: "0.0.0.0", port: 15008, allowPorts: [22], keeps: ["allow"])
        #expect(named.completed(by: present).allowed == ["22", "80", "10.0.0.9:554"])
        #expect(named.completed(by: present).port == 15008 && named.completed(by: present).renewFrom == nil)
        named.deny = ["80", "10.0.0.9:554"]
        #expect(named.completed(by: present).allowed == ["22"])
        // An operator of the release before says all of it.
        #expect(SignalMessage.NodeRequest(allowPorts: [22]).completed(by: present).allowed == ["22"])
    }
}

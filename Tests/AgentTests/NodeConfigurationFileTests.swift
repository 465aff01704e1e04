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
        .init(renewFrom: "10.0.0.1:15012", reverse: ["gw:15008", "[::1]:1=spiffe://demo.example/ns/edge/sa/gw"]),
        .init(bind: "::", port: 15008, advertise: ["home.example.org:25008", "[2001:db8::7]:443"]),
    ])
    func whatIsWrittenIsRead(request: SignalMessage.NodeRequest) throws {
        var expected = request
        expected.allowHosts = request.allowHosts ?? []
        #expect(NodeConfigurationFile.request(in: try written(request)) == expected)
        #expect(try !reading(written(request)).isChangedByHand)
    }

    @Test("a change of what others may reach leaves port forwards as they are")
    func changesKeepWhatIsAdvertised() throws {
        let change = SignalMessage.Access(id: "spiffe://demo.example/ns/default/sa/dev7", allow: ["80"])
        let present = SignalMessage.NodeRequest(allowPorts: [22], advertise: ["home.example.org:25008"])
        let request = try SignalMessage.NodeRequest(change).completed(by: present)
        #expect(request.advertise == ["home.example.org:25008"])
        #expect(request.allowPorts == [22, 80])
    }

    private let everything = ["bind", "port", "renewFrom", "allow", "advertise"]

    /// A file as a device with a certificate for this identity has it.
    private func reading(
        _ text: String,
        id: String = "spiffe://demo.example/ns/default/sa/dev7",
        listener: String? = nil
    ) throws -> PresentConfiguration {
        try PresentConfiguration(
            Array(text.utf8),
            path: "node.yaml",
            identity: "/opt/a \"b\"/identity",
            id: SPIFFEID(id),
            listener: listener
        )
    }

    @Test func aFileOfAnEarlierReleaseIsNotChangedByHand() throws {
        let text = """
            # Written by `bootstrap enroll`, which replaces it when its options change.
            identity: "/opt/a \\"b\\"/identity"
            listeners:
            - {name: hbone, bind: "0.0.0.0:15008", protocol: hbone}
            default: deny
            policy:
            - name: enrolled
              action: ALLOW
              rules:
              - from: [{principals: ["demo.example/ns/default/sa/*"]}]
                to: [{ports: [22, 80]}]

            """
        #expect(try !reading(text).isChangedByHand)
        // Nor where a certificate for another identity came before the node did not come up.
        #expect(try !reading(text, id: "spiffe://demo.example/ns/prod/sa/dev7").isChangedByHand)
    }

    /// What `allow` and `deny` would lose they leave alone; an enrolment says so.
    @Test(arguments: [
        ("default: deny\n", "default: direct\n"),
        ("default: deny\n", "default: deny\n# mine\n"),
        ("default: deny\n", "default: deny\nconnections: {idleTimeout: 1h}\n"),
        ("[22, 80]", "[22, 8000-8010]"),
        ("[22, 80]", "[80, 22]"),
        ("/sa/*\"]", "/sa/*\", \"demo.example/ns/prod/sa/*\"]"),
        ("demo.example/ns/default/sa/*", "*"),
        ("protocol: hbone}", "protocol: hbone }"),
    ])
    func whatWasChangedByHandIsNotReplaced(text: String, replacement: String) throws {
        let file = try written(.init(allowPorts: [22, 80]))
        let changed = try reading(file.replacing(text, with: replacement))
        let id = try SPIFFEID("spiffe://demo.example/ns/default/sa/dev7")
        let order = SignalMessage.Enroll(id: id.description, node: .init(allowPorts: [443], keeps: everything))
        #expect(try reading(file).refusal(of: order) == nil)
        #expect(changed.refusal(of: order)?.contains("node.yaml was changed by hand") == true)
        var enrolment = order
        enrolment.service = "auto"
        #expect(changed.refusal(of: enrolment) == nil)
        #expect(changed.remains(for: enrolment, id: id).warnings.first?.contains("was changed by hand") == true)
        #expect(try reading(file).remains(for: enrolment, id: id).warnings == [])
    }

    @Test(arguments: [[22], []] as [[UInt16]])
    func whatAnotherNamespaceCouldReachIsClosed(ports: [UInt16]) throws {
        let node = SignalMessage.NodeRequest(
            allowPorts: ports,
            renewFrom: "10.0.0.1:15012",
            allowHosts: ["cam.lan:80"]
        )
        let before = try reading(written(node))
        let own = try SPIFFEID("spiffe://demo.example/ns/default/sa/dev7")
        let other = try SPIFFEID("spiffe://demo.example/ns/prod/sa/dev7")
        let order = SignalMessage.Enroll(
            id: other.description,
            node: .init(allowPorts: [443], keeps: everything),
            service: "auto"
        )
        let (kept, silence) = before.remains(for: order, id: own)
        #expect(kept?.allowed == node.allowed && silence == [])
        let (rest, warnings) = before.remains(for: order, id: other)
        let result = order.node.completed(by: rest)
        #expect(result.allowed == ["443"] && result.renewFrom == "10.0.0.1:15012")
        let places = node.allowed.joined(separator: ", ")
        #expect(warnings.count == 1)
        #expect(warnings.first?.contains("demo.example/ns/default/sa/* could reach (\(places)) is closed") == true)
        // `allow` opens nothing of it to others by the way.
        var allow = order
        allow.service = nil
        #expect(before.refusal(of: allow)?.contains("is open to demo.example/ns/default/sa/*") == true)
        // An operator of the release before names all of it, and has nothing to hear.
        allow.node.keeps = nil
        #expect(before.refusal(of: allow) == nil && before.remains(for: allow, id: other).warnings == [])
    }

    /// Written by hand in another way: the listener is known by where the node listens.
    @Test func anAddressWrittenByHandStays() throws {
        let text = "identity: x\nlisteners:\n  - name: hbone\n    bind: 127.0.0.1:15008\n    protocol: hbone\n"
        let own = try SPIFFEID("spiffe://demo.example/ns/default/sa/dev7")
        let order = SignalMessage.Enroll(id: own.description, node: .init(keeps: everything), service: "auto")
        let present = try reading(text, listener: "127.0.0.1:15008")
        #expect(present.isChangedByHand)
        let result = order.node.completed(by: present.remains(for: order, id: own).request)
        #expect(result.bind == "127.0.0.1" && result.port == 15008)
        // Where it has not said, the file goes for what it is: nobody's.
        #expect(try reading(text).remains(for: order, id: own).request == nil)
    }

    @Test(arguments: [
        ("127.0.0.1:1", "0.0.0.0:1", true), ("10.0.0.7:1", "[::]:1", true), ("127.0.0.1:1", "10.0.0.7:1", true),
        ("[::1]:1", "[fd00::7]:1", true), ("0.0.0.0:1", "127.0.0.1:1", false), ("0.0.0.0:1", "[::]:1", false),
        ("127.0.0.1:1", "127.0.0.1:2", false), ("10.0.0.7:1", "127.0.0.1:1", false),
    ])
    func whatListensFurtherIsSaid(before: String, now: String, isSaid: Bool) throws {
        let remark = try reading("", listener: before).exposure(listening: now)
        #expect((remark != nil) == isSaid, "\(remark ?? "nothing")")
        if isSaid { #expect(remark?.contains("and listens on \(now) now: more machines can connect") == true) }
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
    }

    /// What was written is what a node takes.
    @Test func gatewaysStayUntilOthersAreNamed() throws {
        let present = SignalMessage.NodeRequest(reverse: ["gw:15008=spiffe://demo.example/ns/edge/sa/gw"])
        let text = try written(present)
        #expect(text.contains(#"- {gateway: "gw:15008", identity: "spiffe://demo.example/ns/edge/sa/gw"}"#), "\(text)")
        #expect(SignalMessage.NodeRequest().completed(by: present).reverse == present.reverse)
        #expect(SignalMessage.NodeRequest(reverse: ["b:1"]).completed(by: present).reverse == ["b:1"])
        #expect(SignalMessage.NodeRequest(reverse: []).completed(by: present).reverse == nil)
        #expect(SignalMessage.NodeRequest(reverse: []).completed(by: nil).reverse == nil)
        // What is replaced is said.
        let remark = SignalMessage.NodeRequest(reverse: ["b:1"]).remark(onGatewaysOf: present)
        #expect(remark?.contains("no connection to gw:15008=spiffe://demo.example/ns/edge/sa/gw any more") == true)
        for same in [present.reverse, (present.reverse ?? []) + ["b:1"], [], nil] {
            #expect(SignalMessage.NodeRequest(reverse: same).remark(onGatewaysOf: present) == nil)
        }
        #expect(SignalMessage.NodeRequest(reverse: ["b:1"]).remark(onGatewaysOf: nil) == nil)
        // `allow` and `deny` leave them.
        let change = try SignalMessage.NodeRequest(SignalMessage.Access(id: "spiffe://a/ns/b/sa/c", allow: ["80"]))
        #expect(change.completed(by: present).reverse == present.reverse)
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

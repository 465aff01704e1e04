import MeshIdentity
import Testing

@testable import Fleet

/// Through which gateways a device is reached, by its node's own words.
@Suite struct DeviceGatewayTests {
    private static let configuration = """
        # Written by `bootstrap enroll`, which replaces it when its options change.
        identity: "/opt/bootstrap/state/identity"
        listeners:
        - {name: hbone, bind: "0.0.0.0:15008", protocol: hbone}
        reverse:
        - {gateway: "gw.example.org:15008"}
        - {gateway: "gw2.example.org:15008", identity: "spiffe://mesh.example/ns/prod/sa/gw2"}
        - {gateway: "gw3.example.org:15008"}
        """

    private static func line(_ facts: String, _ message: String) -> String {
        "2026-11-30T12:00:00+0000 notice bootstrap: \(facts) [MeshPaths] \(message)"
    }

    private static let log = [
        line("again in=1.2 seconds reason=refused", "no connection to the gateway gw.example.org:15008"),
        line("identity=spiffe://mesh.example/ns/edge/sa/gw", "reachable through the gateway gw.example.org:15008"),
        line("identity=spiffe://mesh.example/ns/prod/sa/gw2", "reachable through the gateway gw2.example.org:15008"),
        line(
            "again in=0.5 seconds reason=it lets go of the connection",
            "not reachable through the gateway gw2.example.org:15008 any more"
        ),
        "nonsense", "[MeshPaths] reachable through the gateway gw3.example.org:15008",
    ]

    @Test func theLastWordCounts() {
        let found = DeviceGateway.read(Self.configuration, log: Self.log, isRunning: true)
        #expect(found.map(\.state) == [.up, .down, .unknown])
        #expect(
            found.map(\.identity) == [
                "spiffe://mesh.example/ns/edge/sa/gw", "spiffe://mesh.example/ns/prod/sa/gw2", nil,
            ]
        )
        #expect(found[1].reason == "it lets go of the connection")
        #expect(found[0].description == "gw.example.org:15008 (up, spiffe://mesh.example/ns/edge/sa/gw)")
        #expect(
            DeviceGateway.read(Self.configuration, log: Self.log, isRunning: false).allSatisfy { $0.state == .down }
        )
    }

    @Test func whatCarriesNothingIsSaidWithARemedy() throws {
        let device = try SPIFFEID("spiffe://mesh.example/ns/prod/sa/cam")
        let found = DeviceGateway.read(Self.configuration, log: Self.log, isRunning: true)
        let foreign = try #require(found[0].problem(for: device))
        #expect(
            foreign.text.contains("ns/edge/sa/gw, of another namespace") && foreign.fix.contains("of that namespace")
        )
        let down = try #require(found[1].problem(for: device))
        #expect(
            down.text.hasSuffix("gw2.example.org:15008: it lets go of the connection")
                && down.fix.contains("dials again")
        )
        #expect(found[2].problem(for: device) == nil)
        let refused = DeviceGateway(
            address: "gw:1",
            state: .down,
            reason: "it ended the connection after the handshake"
        )
        #expect(refused.problem(for: device)?.fix.contains("reverse: true, identity: \"\(device)\"") == true)
    }

    /// A device may say what it likes.
    @Test func hostileWordsAreCleaned() {
        #expect(DeviceGateway.read("reverse: 7", log: [], isRunning: true).isEmpty)
        #expect(DeviceGateway.read("reverse: [[", log: [], isRunning: true).isEmpty)
        #expect(DeviceGateway.read("identity: i\n", log: Self.log, isRunning: true).isEmpty)
        let many = "reverse: [\((0..<50).map { "{gateway: \"g\($0)\"}" }.joined(separator: ", "))]"
        #expect(DeviceGateway.read(many, log: [], isRunning: true).count == 8)
        let escape = DeviceGateway.read("reverse: [{gateway: \"a\\e[2Jb\"}]", log: [], isRunning: true)
        #expect(escape.first?.address.contains("\u{1B}") == false)
    }
}

import MeshIdentity
import MeshPolicy
import Platform
import Testing

@testable import MeshPaths
@testable import SSHSignal

/// Which of the gateways that a peer names are tried, and as whom they must prove themselves.
@Suite struct OfferedGatewaysTests {
    private static let peer = "spiffe://mesh.example/ns/prod/sa/cam"
    private static let edge = "spiffe://mesh.example/ns/gateways/sa/edge"

    private func terms(_ id: String = peer) throws -> GatewayTerms {
        try #require(GatewayTerms(of: SPIFFEID(id), port: 15008))
    }

    private func told(_ texts: [String]) throws -> [PeerOffer.Gateway] {
        try texts.map { try #require(PeerOffer.Gateway(recorded: $0)) }
    }

    /// - Returns: What became of them.
    private func take(_ texts: [String], _ objection: (Authority) -> String? = { _ in nil }) throws -> OfferedGateways {
        var gateways = OfferedGateways()
        _ = gateways.take(try told(texts), on: try terms(), objection: objection)
        return gateways
    }

    @Test("a gateway is asked for a name that follows from the identity on record, and for no other")
    func names() throws {
        #expect(try terms().home.description == "cam.prod:15008")
        #expect(try terms("spiffe://mesh.example/ns/Prod/sa/cam-7").home.description == "cam-7.prod:15008")
        #expect(GatewayTerms(of: try SPIFFEID("spiffe://mesh.example/cam"), port: 15008) == nil)
        #expect(GatewayTerms(of: try SPIFFEID("spiffe://mesh.example/ns/0.0/sa/10.0"), port: 15008) == nil, "10.0.0.0")
    }

    @Test("a gateway is a path of its own, and must be who it was said to be, or of the peer's namespace")
    func identities() throws {
        let gateways = try take(["gw.example.org:15008=\(Self.edge)", "192.0.2.7:443"])
        #expect(gateways.declined.isEmpty)
        #expect(
            gateways.entries.map(\.path.description) == [
                "h2-via-gateway gw.example.org:15008", "h2-via-gateway 192.0.2.7:443",
            ]
        )
        #expect(gateways.entries[0].gateway.expectation == .identities([try SPIFFEID(Self.edge)]))
        let own = PeerExpectation.namespace("prod", in: try TrustDomain("mesh.example"))
        #expect(gateways.entries[1].gateway.expectation == own)
    }

    @Test(
        "a hostile word is no path, and has a reason",
        arguments: [
            ("gw.example.org:15008=spiffe://other.example/ns/gateways/sa/edge", "another trust domain"),
            ("gw.example.org:15008=edge", "no SPIFFE ID"),
            ("gw.example.org:15008=spiffe://mesh.example/ns/prod/sa/cam", "the peer itself"),
            ("10.0.0.1:22=spiffe://mesh.example/ns/gateways/sa/edge", "inside"),
        ]
    )
    func hostile(_ text: String, _ reason: String) throws {
        let gateways = try take([text]) { $0.address == nil ? nil : "it is inside" }
        #expect(gateways.entries.isEmpty)
        #expect(gateways.declined.count == 1 && gateways.declined[0].reason.contains(reason), "\(gateways.declined)")
    }

    @Test("a peer that names many gateways is not reached any later over SSH than one that names a few")
    func bounds() throws {
        let many = (1...8).map { "gw\($0).example.org:15008" }
        let gateways = try take(many + many)
        #expect(gateways.entries.count == OfferedGateways.most)
        #expect(gateways.declined.filter { $0.reason.contains("enough") }.count >= many.count - OfferedGateways.most)
    }

    @Test("the last word holds, and what was found out is kept")
    func anotherOffer() throws {
        var gateways = try take(["a.example.org:1", "b.example.org:1"])
        gateways.answered(gateways.entries[0].path)
        let (new, gone) = gateways.take(
            try told(["a.example.org:1", "c.example.org:1"]),
            on: try terms(),
            objection: { _ in nil }
        )
        #expect(new.map(\.gateway.address.host) == ["c.example.org"])
        #expect(gone.map(\.gateway.address.host) == ["b.example.org"])
        #expect(gateways.entries.map(\.isProven) == [true, false])
        // The same address with another identity is another gateway.
        let other = gateways.take(try told(["a.example.org:1=\(Self.edge)"]), on: try terms(), objection: { _ in nil })
        #expect(other.new.count == 1 && other.gone.count == 2 && !gateways.entries[0].isProven)
    }

    @Test("where somebody else has answered nothing is dialled again, unless the peer was there before")
    func strangers() throws {
        var gateways = try take(["a.example.org:1", "b.example.org:1"])
        let (a, b) = (gateways.entries[0].path, gateways.entries[1].path)
        gateways.answered(a)
        gateways.wasAnother(a, "its certificate names another")
        gateways.wasAnother(b, "its certificate names another")
        #expect(gateways.entries.map(\.path) == [a] && gateways.entries[0].failure != nil)
        _ = gateways.take(try told(["a.example.org:1", "b.example.org:1"]), on: try terms(), objection: { _ in nil })
        #expect(gateways.entries.map(\.path) == [a])
        #expect(gateways.declined.map(\.address.host) == ["b.example.org"])
    }

    /// It may be asked for as long as a session lasts.
    @Test("a peer that names others without end is remembered the last of them")
    func strangersAreBounded() throws {
        var gateways = try take([])
        let names = (0..<1000).map { "gw\($0).example.org:15008" }
        for name in names {
            let (new, _) = gateways.take(try told([name]), on: try terms(), objection: { _ in nil })
            let path = try #require(new.first?.path, "it is tried: \(name)")
            gateways.wasAnother(path, "its certificate names another")
        }
        #expect(gateways.strangers.count == StrangerAddresses.most)
        func isDeclined(_ name: String) throws -> Bool {
            _ = gateways.take(try told([name]), on: try terms(), objection: { _ in nil })
            return gateways.entries.isEmpty
        }
        #expect(try isDeclined(names[999]) && isDeclined(names[1000 - StrangerAddresses.most]))
        #expect(try !isDeclined(names[999 - StrangerAddresses.most]))
    }

    @Test("what is on record reads back, and nothing else does", arguments: ["", "gw", "gw:0", "=x", "gw:1=\u{7}"])
    func records(_ garbage: String) throws {
        for text in ["gw.example.org:15008", "[2001:db8::7]:443=\(Self.edge)"] {
            #expect(PeerOffer.Gateway(recorded: text)?.description == text)
        }
        #expect(PeerOffer.Gateway(recorded: garbage) == nil)
    }
}

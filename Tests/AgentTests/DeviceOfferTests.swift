import Foundation
import MeshIdentity
import Platform
import TestDevices
import TestPeers
import Testing

@testable import Agent
@testable import Fleet
@testable import SSHSignal

/// What the real agent says of how its machine is reached.
@Suite(.timeLimit(.minutes(10))) struct DeviceOfferTests {
    private func negotiate(
        with device: LocalDevice,
        _ purpose: NegotiationOperator.Purpose,
        after before: PeerOffer? = nil
    ) async throws -> PeerOffer? {
        let channel = try device.startSignal()
        defer { channel.close() }
        var machine = NegotiationOperator(purpose, after: before)
        var inbox = SignalInbox(.brief)
        let start = ContinuousClock.now
        var offer: PeerOffer?
        while true {
            for action in machine.handle(await inbox.receive(from: channel, since: start, "dev"), now: 0) {
                switch action {
                case .send(let message): try await channel.write(try SignalFrame.encode(message))
                case .offered(let told): offer = told
                case .told: break
                case .unsupported: Issue.record("the agent does not know the word")
                case .failed(let error): throw error
                case .close:
                    await channel.finish()
                    try await device.settled()
                    return offer
                }
            }
        }
    }

    private func enroll(
        _ device: LocalDevice,
        advertise: [String]? = nil
    ) async throws -> SignalMessage.Acknowledgement {
        let node = SignalMessage.NodeRequest(bind: "127.0.0.1", port: 0, allowPorts: [22], advertise: advertise)
        let order = EnrollmentOperator.Purpose.enroll(.init(id: device.id.description, node: node))
        return try await device.conversation(over: device.startSignal()).run(order).ack
    }

    @Test("it says where its node is, and counts how often that has changed")
    func generations() async throws {
        let device = try LocalDevice()
        let ack = try await enroll(device)
        let first = try #require(try await negotiate(with: device, .offer(.init())))
        #expect(first.candidates.map(\.description) == ack.hbone)
        #expect(first.id == device.id.description)
        #expect(first.alpn == ["h2"] && first.transports == ["h2", "h2-over-ssh"])
        #expect(!first.takesReverse)
        let generation = try #require(first.generation)

        // Another login: nothing has changed, and that is what is said.
        let again = try await negotiate(with: device, .offer(.init()), after: first)
        #expect(again == first)
        #expect(try await negotiate(with: device, .offer(.init())) == first, "who has forgotten it is told again")

        _ = try await enroll(device, advertise: ["home.example.org:25008"])
        let second = try #require(try await negotiate(with: device, .offer(.init()), after: first))
        #expect(second.candidates.first?.description == "home.example.org:25008")
        #expect(second.candidates.count == 2)
        #expect(try #require(second.generation) > generation)

        let outcome = SignalMessage.Outcome(
            generation: second.generation,
            tried: [.init(transport: "h2", address: "home.example.org:25008", answered: true, handshake: 4210)],
            chosen: "h2",
            reason: "the best\u{1B}[2J path"
        )
        _ = try await negotiate(with: device, .outcome(outcome))
        let noted = try device.directory.read("state/outcome")
        #expect(noted.contains("home.example.org:25008") && !noted.contains("\u{1B}") && !noted.contains("\\u001b"))

        // A node that does not run is reached nowhere.
        LocalDevice.stopNode(state: device.state)
        #expect(try await negotiate(with: device, .offer(.init()))?.candidates == [])
    }

    @Test("a generation that cannot be kept is not named")
    func unwritable() {
        let facts = SignalMessage.Offer(candidates: [.init(address: "192.0.2.7:15008")])
        let offer = DeviceOffer(state: "/proc/nowhere", now: 7).answer(to: .init(known: 7), saying: facts)
        #expect(offer == facts)
    }

    @Test("a node's gateways are what its configuration says under reverse")
    func gateways() {
        let text = """
            identity: /x
            reverse:
            - {gateway: "gw.example.org:15008", identity: "spiffe://example.org/ns/gateways/sa/edge"}
            - {gateway: "192.0.2.9:15008"}
            endpoints:
            - {gateway: "other:1"}
            """
        #expect(
            NodeConfigurationFile.gateways(in: text) == [
                .init(address: "gw.example.org:15008", id: "spiffe://example.org/ns/gateways/sa/edge"),
                .init(address: "192.0.2.9:15008"),
            ]
        )
        let line = "reverse: [{gateway: \"gw.example.org:15008\", identity: \"spiffe://example.org/ns/g/sa/edge\"}]"
        #expect(NodeConfigurationFile.gateways(in: line).map(\.address) == ["gw.example.org:15008"])
    }
}

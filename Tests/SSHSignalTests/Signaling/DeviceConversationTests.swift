import Platform
import Synchronization
import Testing

@testable import SSHSignal

/// The device's end without a channel: what it is told, what it does, what it says.
@Suite struct DeviceConversationTests {
    /// Writes down what it is told to do.
    private struct Recorder: SignaledDevice {
        var calls: [String] = []
        var failure: SignalError?

        private mutating func call(_ name: String) throws(SignalError) {
            calls.append(name)
            if let failure { throw failure }
        }

        mutating func prepareKey(_ order: EnrollmentDevice.Order) throws(SignalError) -> SignalMessage.SigningRequest {
            try call("prepareKey")
            return Sample.request
        }
        mutating func discardKey() { calls.append("discardKey") }
        mutating func changeAccess(_ order: SignalMessage.Access) throws(SignalError) -> SignalMessage.Acknowledgement {
            try call("changeAccess")
            return Sample.ack
        }
        mutating func install(
            _ certificate: SignalMessage.IssuedCertificate,
            for order: EnrollmentDevice.Order
        ) throws(SignalError) -> SignalMessage.Acknowledgement {
            try call("install")
            return Sample.ack
        }
        mutating func takeRevocations(_ lists: String) throws(SignalError) -> Bool {
            try call("takeRevocations \(lists)")
            return true
        }
        mutating func offer(for offer: SignalMessage.Offer) -> SignalMessage.Offer {
            calls.append("offer, known \(offer.known ?? 0)")
            return .init(generation: 4, candidates: [.init(address: "10.0.0.7:15008")])
        }
        mutating func note(_ outcome: SignalMessage.Outcome) { calls.append("outcome \(outcome.reason)") }
        mutating func endpoints() -> SignalMessage.Endpoints {
            calls.append("endpoints")
            return .init(hbone: ["10.0.0.7:15008"])
        }
    }

    private final class Clock: Sendable {
        let now = Atomic<Int64>(1_000_000_000_000)
    }

    private let clock = Clock()

    private func conversation(_ device: Recorder = Recorder()) -> DeviceConversation<Recorder> {
        DeviceConversation(with: device, clock: WallClock { [clock] in clock.now.load(ordering: .relaxed) })
    }

    /// What is sent before something is waited for, or the end.
    private func sent(_ conversation: inout DeviceConversation<Recorder>) -> [String] {
        var sent: [String] = []
        while true {
            switch conversation.next() {
            case .send(let message): sent.append(message.type)
            case .receive: return sent
            case .close(let error): return sent + ["closed: \(error?.code.rawValue ?? "well")"]
            }
        }
    }

    @Test func anEnrolment() {
        var conversation = conversation()
        #expect(sent(&conversation) == ["hello"])
        conversation.received(.message(.hello(Sample.hello)))
        conversation.received(.message(.enroll(Sample.enroll)))
        #expect(sent(&conversation) == ["csr"])
        conversation.received(.message(.certificate(Sample.certificate)))
        #expect(sent(&conversation) == ["ack"])
        conversation.received(.message(.bye(.init())))
        #expect(sent(&conversation) == ["closed: well"])
        #expect(conversation.device.calls == ["prepareKey", "install"])
    }

    @Test("an offer is answered by another one, and its outcome by nothing")
    func anOffer() {
        var conversation = conversation()
        _ = sent(&conversation)
        conversation.received(.message(.hello(Sample.hello)))
        conversation.received(.message(.offer(.init(known: 3))))
        #expect(sent(&conversation) == ["offer"])
        conversation.received(.message(.outcome(.init(generation: 4, tried: [], chosen: "ssh", reason: "why"))))
        #expect(sent(&conversation) == [])
        conversation.received(.message(.bye(.init())))
        #expect(sent(&conversation) == ["closed: well"])
        #expect(conversation.device.calls == ["offer, known 3", "outcome why"])
    }

    @Test func aChangeOfAccess() {
        var conversation = conversation()
        #expect(sent(&conversation) == ["hello"])
        conversation.received(.message(.hello(Sample.hello)))
        conversation.received(.message(.access(.init(id: Sample.enroll.id, allow: ["22"]))))
        #expect(sent(&conversation) == ["ack"])
        conversation.received(.message(.bye(.init())))
        #expect(sent(&conversation) == ["closed: well"])
        #expect(conversation.device.calls == ["changeAccess"], "no key, no certificate")
    }

    @Test func whatFailsIsToldAndEndsIt() {
        var conversation = conversation(Recorder(failure: SignalError(.credential, "no space")))
        conversation.received(.message(.hello(Sample.hello)))
        conversation.received(.message(.renew(.init())))
        #expect(sent(&conversation) == ["hello", "error", "closed: credential"])
        #expect(conversation.device.calls == ["prepareKey", "discardKey"])
    }

    @Test func aCutDropsTheKey() {
        var conversation = conversation()
        conversation.received(.message(.hello(Sample.hello)))
        conversation.received(.message(.enroll(Sample.enroll)))
        #expect(sent(&conversation) == ["hello", "csr"])
        conversation.received(.ended(nil))
        #expect(sent(&conversation) == ["closed: truncated"])
        #expect(conversation.device.calls == ["prepareKey", "discardKey"])
    }

    @Test func questionsAndRevocationLists() {
        var conversation = conversation()
        conversation.received(.message(.hello(Sample.hello)))
        conversation.received(.message(.endpoints(.init(hbone: []))))
        conversation.received(.message(.revocations(.init(lists: "PEM"))))
        #expect(sent(&conversation) == ["hello", "endpoints", "revocations"])
        conversation.received(.timedOut(.seconds(60)))
        #expect(sent(&conversation) == ["error", "closed: timed-out"])
        #expect(conversation.device.calls == ["endpoints", "takeRevocations PEM"])
    }

    /// The clock is read when something happens, not when the conversation began.
    @Test func theClockIsReadAnew() {
        var conversation = conversation()
        conversation.received(.message(.hello(Sample.hello)))
        conversation.received(.message(.enroll(Sample.enroll)))
        #expect(sent(&conversation) == ["hello", "csr"])
        clock.now.store((Sample.certificate.notAfter + 1) * 1000, ordering: .relaxed)
        conversation.received(.message(.certificate(Sample.certificate)))
        #expect(sent(&conversation) == ["error", "closed: clock"])
        #expect(conversation.device.calls == ["prepareKey", "discardKey"])
    }
}

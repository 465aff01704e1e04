import Testing

@testable import SSHSignal

/// How much a conversation may take, without a channel and without a clock.
@Suite struct SignalInboxTests {
    private static let unknown: [UInt8] = {
        let json = Array(#"{"type":"future"}"#.utf8)
        return [0, 0, 0, UInt8(json.count)] + json
    }()

    @Test func aMessageOfAnUnknownTypeIsNoMessage() throws {
        var inbox = SignalInbox(ConversationLimits(step: .seconds(10), total: .seconds(60)))
        try inbox.append(Self.unknown + SignalFrame.encode(.bye(.init())) + Self.unknown)
        #expect(try inbox.next() == .bye(.init()))
        #expect(try inbox.next() == nil)
        try inbox.finish()
    }

    /// Whatever came in the meantime: the wait for a message began when it was asked for.
    @Test func theTimeForAStepRunsFromItsBeginning() {
        let inbox = SignalInbox(ConversationLimits(step: .seconds(10), total: .seconds(60)))
        #expect(inbox.patience(at: .seconds(20), since: .seconds(20)) == .seconds(10))
        #expect(inbox.patience(at: .seconds(29), since: .seconds(20)) == .seconds(1))
        #expect(inbox.patience(at: .seconds(30), since: .seconds(20)) == nil)
        #expect(inbox.overrun(at: .seconds(30)) == .timedOut(.seconds(10)))
    }

    @Test func nothingIsSentBeyondTheWhole() {
        let limits = ConversationLimits(step: .seconds(10), total: .seconds(60))
        #expect(limits.sendingTime(at: .seconds(20)) == .seconds(10))
        #expect(limits.sendingTime(at: .seconds(57)) == .seconds(3))
        #expect(limits.sendingTime(at: .seconds(70)) == .milliseconds(1))
    }

    /// Revocation lists have up to 16 MiB: their bytes have time of their own, at both ends.
    @Test func aLongMessageMayTakeItsTime() throws {
        let limits = ConversationLimits(step: .seconds(10), total: .seconds(60))
        #expect(limits.sendingTime(at: .seconds(20), bytes: 16 << 20) == .seconds(10 + 256))
        #expect(limits.sendingTime(at: .seconds(70), bytes: 16 << 20) == .seconds(246))
        var inbox = SignalInbox(limits)
        // The beginning of a message.
        try inbox.append([0, 4, 0, 0] + [UInt8](repeating: 0x20, count: (128 << 10) - 4))
        #expect(try inbox.next() == nil)
        #expect(inbox.patience(at: .seconds(20), since: .seconds(20)) == .seconds(12))
        #expect(inbox.patience(at: .seconds(57), since: .seconds(57)) == .seconds(5))
        inbox.willSend(64 << 10)
        #expect(inbox.patience(at: .seconds(57), since: .seconds(57)) == .seconds(6))
        #expect(inbox.overrun(at: .seconds(62)) == .timedOut(.seconds(12)))
    }

    /// What was ignored has no time beside the whole.
    @Test func ignoredMessagesAddNothingToAStep() throws {
        let limits = ConversationLimits(step: .seconds(10), total: .seconds(60), frames: 1 << 20)
        var inbox = SignalInbox(limits)
        try inbox.append(Array(repeating: Self.unknown, count: 5000).flatMap(\.self))
        #expect(try inbox.next() == nil)
        #expect(inbox.patience(at: .seconds(20), since: .seconds(20)) == .seconds(10))
    }

    @Test func noStepGoesBeyondTheWhole() {
        let inbox = SignalInbox(ConversationLimits(step: .seconds(10), total: .seconds(60)))
        #expect(inbox.patience(at: .seconds(57), since: .seconds(57)) == .seconds(3))
        #expect(inbox.patience(at: .seconds(60), since: .seconds(59)) == nil)
        guard case .invalid(let error) = inbox.overrun(at: .seconds(60)) else {
            Issue.record("a conversation that took too long is told as something else")
            return
        }
        #expect(error.code == .timedOut && error.message.contains("60 s that it may take in all"))
    }

    @Test func messagesAreCountedThoseOfUnknownTypesToo() throws {
        var inbox = SignalInbox(ConversationLimits(step: .seconds(10), total: .seconds(60), frames: 3))
        try inbox.append(Array(repeating: Self.unknown, count: 3).flatMap(\.self))
        #expect(try inbox.next() == nil)
        try inbox.append(Self.unknown)
        let error = #expect(throws: SignalError.self) { try inbox.next() }
        #expect(error?.code == .tooMuch)
    }

    @Test func bytesAreCountedBeforeTheyAreAMessage() throws {
        var inbox = SignalInbox(ConversationLimits(step: .seconds(10), total: .seconds(60), bytes: 100))
        try inbox.append([UInt8](repeating: 0, count: 100))
        let error = #expect(throws: SignalError.self) { try inbox.append([0]) }
        #expect(error?.code == .tooMuch)
    }

    /// The device outlasts the operator, so that it hears why it gets nothing.
    @Test func theDeviceIsTheMorePatient() {
        #expect(ConversationLimits.ofDevice.total > ConversationLimits.certifying.total)
        #expect(ConversationLimits.certifying.total > ConversationLimits.certifying.step)
    }
}

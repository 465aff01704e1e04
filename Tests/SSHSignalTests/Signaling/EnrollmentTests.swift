import MeshIdentity
import Platform
import Testing

@testable import Fleet
@testable import SSHSignal

/// The state machines alone: every step, every message in every state, a cut at every step.
@Suite struct EnrollmentOperatorTests {
    static let now: Int64 = 1_000_000_000_000

    private func machine(_ purpose: EnrollmentOperator.Purpose = .enroll(Sample.enroll)) -> EnrollmentOperator {
        EnrollmentOperator(purpose, software: "test")
    }

    /// Events that lead through a good enrolment, with the action each must cause.
    static let hello = SignalMessage.hello(
        .init(
            version: 1,
            minimumVersion: 1,
            software: "test",
            clock: now,
            capabilities: ["enroll", "renew", "endpoints", "probe", "revocations", "access", "offer"]
        )
    )

    static let steps: [(EnrollmentOperator.Event, [EnrollmentOperator.Action])] = [
        // The device speaks first.
        (.started, []),
        (.message(.hello(Sample.hello)), [.send(hello), .send(.enroll(Sample.enroll))]),
        (.message(.csr(Sample.request)), [.issue(csr: Sample.request.csr, skew: ClockSkew(milliseconds: 0))]),
        (.issued(Sample.certificate), [.send(.certificate(Sample.certificate))]),
        (.message(.ack(Sample.ack)), [.send(.bye(.init())), .succeeded(Sample.ack), .close]),
    ]

    private func machine(after steps: Int) -> EnrollmentOperator {
        var machine = machine()
        for (event, _) in Self.steps.prefix(steps) { _ = machine.handle(event, now: Self.now) }
        return machine
    }

    private func failure(_ actions: [EnrollmentOperator.Action]) -> SignalError? {
        for case .failed(let error) in actions { return error }
        return nil
    }

    private func notice(_ actions: [EnrollmentOperator.Action]) -> SignalMessage.Failure? {
        for case .send(.error(let failure)) in actions { return failure }
        return nil
    }

    @Test func goodConversation() {
        var machine = machine()
        for (event, actions) in Self.steps { #expect(machine.handle(event, now: Self.now) == actions) }
        #expect(machine.handle(.message(.ack(Sample.ack)), now: Self.now) == [])
    }

    @Test func renewal() {
        var machine = machine(.renew(id: Sample.enroll.id))
        _ = machine.handle(.started, now: Self.now)
        #expect(
            machine.handle(.message(.hello(Sample.hello)), now: Self.now) == [
                .send(Self.hello), .send(.renew(.init())),
            ]
        )
        #expect(
            machine.handle(.message(.csr(Sample.request)), now: Self.now) == [
                .issue(csr: Sample.request.csr, skew: ClockSkew(milliseconds: 0))
            ]
        )
    }

    /// However wrong the device's clock is: it has to know all the same.
    @Test func revocation() {
        var machine = machine(.revoke(lists: "lists"))
        _ = machine.handle(.started, now: Self.now)
        var hello = Sample.hello
        hello.clock = 0
        let actions = machine.handle(.message(.hello(hello)), now: Self.now)
        guard case .warn(let warning) = actions.first else {
            Issue.record("nothing is said of the clock: \(actions)")
            return
        }
        #expect(warning.contains("behind") && warning.contains("run `bootstrap revoke` again"), "\(warning)")
        #expect(actions.dropFirst() == [.send(Self.hello), .send(.revocations(.init(lists: "lists")))])
        #expect(
            machine.handle(.message(.revocations(.init(changed: true))), now: Self.now) == [
                .send(.bye(.init())), .delivered(changed: true), .close,
            ]
        )
    }

    /// However wrong its clock is, and without a certificate.
    @Test func access() {
        let order = SignalMessage.Access(id: Sample.enroll.id, allow: ["22"], deny: ["10.0.0.9:554"])
        var machine = machine(.access(order))
        _ = machine.handle(.started, now: Self.now)
        var hello = Sample.hello
        hello.clock = 0
        #expect(
            machine.handle(.message(.hello(hello)), now: Self.now) == [.send(Self.hello), .send(.access(order))]
        )
        var other = machine
        #expect(
            machine.handle(.message(.ack(Sample.ack)), now: Self.now) == [
                .send(.bye(.init())), .changedAccess(Sample.ack), .close,
            ]
        )
        var ack = Sample.ack
        ack.id = "spiffe://demo.example/ns/default/sa/other"
        #expect(failure(other.handle(.message(.ack(ack)), now: Self.now))?.code == .unexpected)
    }

    @Test func anAgentThatKnowsNoAccessIsNamed() {
        var machine = machine(.access(.init(id: Sample.enroll.id, allow: ["22"])))
        _ = machine.handle(.started, now: Self.now)
        var hello = Sample.hello
        hello.capabilities.removeAll { $0 == "access" }
        let actions = machine.handle(.message(.hello(hello)), now: Self.now)
        #expect(failure(actions)?.code == .version)
        #expect(!actions.contains { if case .send(.access) = $0 { true } else { false } })
    }

    @Test func anAgentThatKnowsNoRevocationsIsNamed() {
        var machine = machine(.revoke(lists: "lists"))
        _ = machine.handle(.started, now: Self.now)
        var hello = Sample.hello
        hello.capabilities = ["enroll", "renew"]
        #expect(failure(machine.handle(.message(.hello(hello)), now: Self.now))?.code == .version)
    }

    @Test func everyOtherMessageInEveryStateIsRefused() {
        for step in 1..<Self.steps.count {
            for message in Sample.all {
                if case .message(message) = Self.steps[step].0 { continue }
                if case .error = message { continue }
                var machine = machine(after: step)
                let actions = machine.handle(.message(message), now: Self.now)
                #expect(failure(actions)?.code == .unexpected, "\(message.type) at step \(step)")
                #expect(failure(actions)?.message.contains("'\(message.type)'") == true)
                #expect(notice(actions)?.code == "unexpected", "the device is told, so that it drops its key")
                #expect(actions.last == .close)
                #expect(machine.handle(Self.steps[step].0, now: Self.now) == [], "nothing goes on afterwards")
            }
        }
    }

    @Test func unknownMessagesAreIgnoredInEveryState() {
        for step in 1..<Self.steps.count {
            var machine = machine(after: step)
            #expect(machine.handle(.message(.unknown(type: "future")), now: Self.now) == [])
            #expect(machine.handle(Self.steps[step].0, now: Self.now) == Self.steps[step].1)
        }
    }

    @Test func cutInEveryStateFails() {
        for step in 1..<Self.steps.count {
            var machine = machine(after: step)
            let actions = machine.handle(.ended(nil), now: Self.now)
            #expect(failure(actions)?.code == .truncated)
            #expect(actions.last == .close)
            let unsure = failure(actions)?.message.contains("not known") == true
            #expect(unsure == (step == 4), "only after the certificate was sent")
        }
    }

    @Test func devicesErrorIsPassedOnCleaned() {
        for step in 1..<Self.steps.count {
            var machine = machine(after: step)
            let message = SignalMessage.error(.init(code: "node", message: "port\u{1B}[2J taken"))
            let actions = machine.handle(.message(message), now: Self.now)
            #expect(failure(actions)?.message == "the device says: port?[2J taken")
            #expect(failure(actions)?.isFromPeer == true)
            #expect(notice(actions) == nil)
        }
    }

    @Test func silenceAndGarbageAndIssuerFail() {
        for step in 1..<Self.steps.count {
            var machine = machine(after: step)
            #expect(failure(machine.handle(.timedOut(.seconds(30)), now: Self.now))?.code == .timedOut)
            machine = self.machine(after: step)
            let actions = machine.handle(.invalid(SignalError(.malformed, "not JSON")), now: Self.now)
            #expect(failure(actions)?.code == .malformed)
            #expect(notice(actions)?.code == "malformed")
        }
        var machine = machine(after: 3)
        #expect(notice(machine.handle(.issueFailed("weak key"), now: Self.now))?.message == "weak key")
    }

    @Test(arguments: [(2, 2), (0, 0)])
    func otherVersionsAreRefused(version: Int, minimum: Int) {
        var hello = Sample.hello
        hello.version = version
        hello.minimumVersion = minimum
        var machine = machine(after: 1)
        #expect(failure(machine.handle(.message(.hello(hello)), now: Self.now))?.code == .version)
    }

    @Test func newerVersionThatStillSpeaksOursIsFine() {
        var hello = Sample.hello
        hello.version = 9
        var machine = machine(after: 1)
        #expect(machine.handle(.message(.hello(hello)), now: Self.now) == Self.steps[1].1)
    }

    @Test func missingCapabilityIsRefused() {
        var hello = Sample.hello
        hello.capabilities = ["renew"]
        var machine = machine(after: 1)
        #expect(
            failure(machine.handle(.message(.hello(hello)), now: Self.now))?.message.contains("cannot enroll") == true
        )
    }

    @Test func anotherIdentityIsRefused() {
        var machine = machine(after: 2)
        let request = SignalMessage.SigningRequest(id: "spiffe://demo.example/ns/default/sa/other", csr: "x")
        #expect(failure(machine.handle(.message(.csr(request)), now: Self.now))?.code == .refused)
        machine = self.machine(after: 4)
        var ack = Sample.ack
        ack.id = request.id
        #expect(failure(machine.handle(.message(.ack(ack)), now: Self.now))?.code == .unexpected)
    }

    @Test(arguments: [
        "dev7:15008", "10.0.0.7", "10.0.0.7:0", "[fe80::1%eth0]:1", "10.0.0.7:1\n", "[10.0.0.7]:1", "::1:1",
    ])
    func addressesAreNumeric(address: String) {
        var ack = Sample.ack
        ack.hbone = ["10.0.0.7:15008", address]
        var machine = machine(after: 4)
        #expect(failure(machine.handle(.message(.ack(ack)), now: Self.now))?.code == .malformed)
    }

    @Test func endlessAddressesAreRefused() {
        var ack = Sample.ack
        ack.hbone = Array(repeating: "10.0.0.7:15008", count: 65)
        var machine = machine(after: 4)
        #expect(failure(machine.handle(.message(.ack(ack)), now: Self.now))?.code == .malformed)
    }

    @Test(arguments: [
        ["gw"], ["gw:0"], ["gw:1=spiffe://demo.example/\u{1b}[2J"], [], ["gw:1"],
        Array(repeating: "gw:1", count: 9), ["gw:1=" + String(repeating: "a", count: 2100)],
    ])
    func gatewaysAreOnesAndFew(gateways: [String]) {
        var ack = Sample.ack
        ack.gateways = gateways
        var machine = machine(after: 4)
        let error = failure(machine.handle(.message(.ack(ack)), now: Self.now))
        #expect(error?.code == (gateways.isEmpty || gateways == ["gw:1"] ? nil : .malformed))
    }

    @Test func clockSkew() {
        func handle(
            _ skew: Int64,
            _ validity: EnrollmentOperator.Validity = .init()
        ) -> [EnrollmentOperator.Action] {
            var hello = Sample.hello
            hello.clock = Self.now.addingSaturating(skew)
            var machine = EnrollmentOperator(.enroll(Sample.enroll), validity: validity, software: "test")
            _ = machine.handle(.started, now: Self.now)
            return machine.handle(.message(.hello(hello)), now: Self.now)
        }
        func warning(_ actions: [EnrollmentOperator.Action]) -> String? {
            guard actions.count == 3, Array(actions[1...]) == Self.steps[1].1, case .warn(let text) = actions[0] else {
                return nil
            }
            return text
        }
        let go = Self.steps[1].1
        #expect(handle(29_000) == go)
        #expect(handle(-29_000) == go)
        #expect(handle(-60_000) == [.warn("device clock is 1 min 0 s behind")] + go)
        #expect(handle(-300_000) == [.warn("device clock is 5 min 0 s behind")] + go)
        // Beyond five minutes it is said what follows, and up to a quarter of the lifetime it is covered.
        let ahead = warning(handle(3_600_000))
        #expect(ahead?.hasPrefix("device clock is 1 h 0 min ahead: it takes certificates") == true, "\(ahead ?? "")")
        let behind = warning(handle(-21_600_000))
        let text = "device clock is 6 h 0 min behind: its certificate is dated back by 6 h 1 min"
        #expect(behind?.hasPrefix(text) == true, "\(behind ?? "")")
        #expect(behind?.contains("set its clock (date -u -s") == true, "\(behind ?? "")")

        for skew in [-21_602_000, 21_602_000] as [Int64] {
            let refused = failure(handle(skew))
            #expect(refused?.code == .clock)
            #expect(
                refused?.message.contains("more than a quarter of the 1 d 0 h") == true,
                "\(refused?.message ?? "")"
            )
            #expect(refused?.message.contains("--skew-ok") == true)
            #expect(warning(handle(skew, .init(acceptsSkew: true))) != nil)
        }
        // Two minutes are always allowed, however short the lifetime.
        #expect(warning(handle(-119_000, .init(lifetime: 60))) != nil)
        #expect(failure(handle(-122_000, .init(lifetime: 60)))?.code == .clock)
        // It would have expired there: nothing to accept.
        let expired = failure(handle(3 * 86_400_000, .init(acceptsSkew: true)))
        #expect(
            expired?.message.hasPrefix("device clock is 3 d 0 h ahead; a certificate for 1 d 0 h would have expired")
                == true
        )
        for clock in [Int64.min, .max, 0] {
            var hello = Sample.hello
            hello.clock = clock
            var machine = machine(after: 1)
            #expect(failure(machine.handle(.message(.hello(hello)), now: Self.now))?.code == .clock)
        }
    }

    /// NotBefore is two minutes back, and a minute more than the device is behind.
    @Test(arguments: [(0, 120), (3_600_000, 120), (-60_000, 120), (-61_000, 121), (-3_600_000, 3660)])
    func backdating(milliseconds: Int64, seconds: Int64) {
        var hello = Sample.hello
        hello.clock = Self.now + milliseconds
        var machine = machine(after: 1)
        _ = machine.handle(.message(.hello(hello)), now: Self.now)
        guard case .issue(_, let skew)? = machine.handle(.message(.csr(Sample.request)), now: Self.now).first else {
            Issue.record("no certificate is asked for")
            return
        }
        #expect(skew.milliseconds == milliseconds)
        #expect(skew.backdating == seconds)
        #expect(IssuanceOptions().covering(skew).backdating == .seconds(seconds))
    }

    /// Whole seconds of the device's clock, read within a round trip: what is not known is not held against it, but is
    /// covered.
    @Test func clockOfAProbe() {
        let skew = ClockSkew(deviceSeconds: 1000, asked: 1_060_000, answered: 1_064_000)
        #expect(skew.milliseconds == 1_000_500 - 1_062_000 && skew.uncertainty == 2500)
        #expect(skew.backdating == 124)
        #expect(ClockSkew(deviceSeconds: .max, asked: 0, answered: 0).refusal(lifetime: 60, isAccepted: true) != nil)
        #expect(ClockSkew(deviceSeconds: .min, asked: 0, answered: 0).backdating > 1 << 52)
        // A minute and a half is the way there and back.
        #expect(ClockSkew(deviceSeconds: 0, asked: 0, answered: 90_000).refusal(lifetime: 60, isAccepted: false) == nil)
        let border = ClockSkew(deviceSeconds: 0, asked: 120_000, answered: 130_000)
        #expect(border.refusal(lifetime: 60, isAccepted: false) == nil)
        #expect(ClockSkew(milliseconds: border.milliseconds).refusal(lifetime: 60, isAccepted: false) != nil)
    }

    @Test func issuedCertificateIsCheckedAgainstTheDevicesClock() {
        var hello = Sample.hello
        hello.clock = Self.now - 100_000
        var machine = machine(after: 1)
        _ = machine.handle(.message(.hello(hello)), now: Self.now)
        _ = machine.handle(.message(.csr(Sample.request)), now: Self.now)
        var certificate = Sample.certificate
        certificate.notBefore = Self.now / 1000 - 50
        #expect(failure(machine.handle(.issued(certificate), now: Self.now))?.code == .clock)
    }
}

@Suite struct EnrollmentDeviceTests {
    static let now: Int64 = 1_000_000_000_000

    static let steps: [(EnrollmentDevice.Event, [EnrollmentDevice.Action])] = [
        (
            .started,
            [
                .send(
                    .hello(
                        .init(
                            version: 1,
                            minimumVersion: 1,
                            software: "test",
                            clock: now,
                            capabilities: ["enroll", "renew", "endpoints", "probe", "revocations", "access", "offer"]
                        )
                    )
                )
            ]
        ),
        (.message(.hello(Sample.hello)), []),
        (.message(.enroll(Sample.enroll)), [.prepareKey(.enroll(Sample.enroll))]),
        (.prepared(Sample.request), [.send(.csr(Sample.request))]),
        (.message(.certificate(Sample.certificate)), [.install(Sample.certificate, for: .enroll(Sample.enroll))]),
        (.installed(Sample.ack), [.send(.ack(Sample.ack))]),
        (.message(.bye(.init())), [.close(nil)]),
    ]

    @Test func revocations() {
        var machine = machine(after: 2)
        #expect(
            machine.handle(.message(.revocations(.init(lists: "lists"))), now: Self.now) == [.takeRevocations("lists")]
        )
        #expect(
            machine.handle(.tookRevocations(changed: false), now: Self.now) == [
                .send(.revocations(.init(changed: false)))
            ]
        )
        // The channel is cut while they are stored: they are stored to the end.
        _ = machine.handle(.message(.revocations(.init(lists: "more"))), now: Self.now)
        #expect(machine.handle(.ended(nil), now: Self.now) == [])
        guard case .close(.some)? = machine.handle(.tookRevocations(changed: true), now: Self.now).last else {
            Issue.record("not closed")
            return
        }
    }

    private func machine(after steps: Int) -> EnrollmentDevice {
        var machine = EnrollmentDevice(software: "test")
        for (event, _) in Self.steps.prefix(steps) { _ = machine.handle(event, now: Self.now) }
        return machine
    }

    private func closing(_ actions: [EnrollmentDevice.Action]) -> SignalError?? {
        guard case .close(let error) = actions.last else { return nil }
        return .some(error)
    }

    @Test func goodConversation() {
        var machine = machine(after: 0)
        for (event, actions) in Self.steps { #expect(machine.handle(event, now: Self.now) == actions) }
        #expect(machine.handle(.message(.enroll(Sample.enroll)), now: Self.now) == [])
    }

    @Test func secondOrderInOneConversation() {
        var machine = machine(after: 6)
        #expect(machine.handle(.message(.renew(.init())), now: Self.now) == [.prepareKey(.renew)])
        #expect(machine.handle(.prepared(Sample.request), now: Self.now) == [.send(.csr(Sample.request))])
        #expect(
            machine.handle(.message(.certificate(Sample.certificate)), now: Self.now)
                == [.install(Sample.certificate, for: .renew)]
        )
        #expect(machine.handle(.installed(Sample.ack), now: Self.now) == [.send(.ack(Sample.ack))])
        #expect(machine.handle(.message(.endpoints(.init())), now: Self.now) == [.reportEndpoints])
        let endpoints = SignalMessage.Endpoints(hbone: ["10.0.0.7:15008"])
        #expect(machine.handle(.endpoints(endpoints), now: Self.now) == [.send(.endpoints(endpoints))])
        #expect(
            machine.handle(.message(.probe(.init(nonce: "n", clock: 0))), now: Self.now)
                == [.send(.probe(.init(nonce: "n", clock: Self.now)))]
        )
        #expect(machine.handle(.ended(nil), now: Self.now) == [.close(nil)])
    }

    /// Which messages have a place after so many steps, beside `error`.
    private func allowed(_ message: SignalMessage, after step: Int) -> Bool {
        switch (message, step) {
        case (.hello, 1), (.enroll, 2), (.enroll, 6), (.revocations, 2), (.revocations, 6), (.renew, 2), (.renew, 6),
            (.endpoints, 2), (.endpoints, 6),
            (.access, 2), (.access, 6), (.bye, 2),
            (.bye, 6), (.probe, 2), (.probe, 4), (.probe, 6), (.certificate, 4), (.bye, 4), (.error, _):
            true
        default: false
        }
    }

    @Test func everyOtherMessageInEveryStateIsRefused() {
        for step in 1..<Self.steps.count {
            for message in Sample.all where !allowed(message, after: step) {
                var machine = machine(after: step)
                let actions = machine.handle(.message(message), now: Self.now)
                #expect(closing(actions)??.code == .unexpected, "\(message.type) at step \(step)")
                let notified = actions.contains {
                    if case .send(.error(let failure)) = $0 { failure.code == "unexpected" } else { false }
                }
                #expect(notified)
                #expect(actions.contains(.discardKey) == (step == 3 || step == 4), "\(message.type) at step \(step)")
                #expect(machine.handle(Self.steps[step].0, now: Self.now) == [])
            }
        }
    }

    /// The heart of it: wherever it is cut, the key is dropped or the installation is complete; never something
    /// between.
    @Test func cutInEveryState() {
        for step in 1..<Self.steps.count {
            var machine = machine(after: step)
            let actions = machine.handle(.ended(nil), now: Self.now)
            switch step {
            case 1:
                #expect(closing(actions)??.code == .truncated)
                #expect(!actions.contains(.discardKey))
            case 2, 6:
                #expect(actions == [.close(nil)])
            case 3:
                #expect(actions == [], "the key is being made")
                let after = machine.handle(.prepared(Sample.request), now: Self.now)
                #expect(after.first == .discardKey)
                #expect(closing(after)??.code == .truncated)
            case 4:
                #expect(actions.first == .discardKey)
                #expect(closing(actions)??.code == .truncated)
            case 5:
                #expect(actions == [], "the installation goes on to its end")
                let after = machine.handle(.installed(Sample.ack), now: Self.now)
                #expect(!after.contains(.discardKey))
                #expect(closing(after)??.code == .truncated)
            default: Issue.record("step \(step) is not covered")
            }
        }
    }

    @Test func operatorsErrorDropsTheKey() {
        for step in 1..<Self.steps.count {
            var machine = machine(after: step)
            let actions = machine.handle(.message(.error(.init(code: "credential", message: "weak"))), now: Self.now)
            #expect(closing(actions)??.message == "the operator says: weak")
            #expect(actions.contains(.discardKey) == (step == 3 || step == 4))
            #expect(!actions.contains { if case .send = $0 { true } else { false } })
        }
    }

    @Test func failureOfAStepIsReported() {
        for step in [3, 5] {
            var machine = machine(after: step)
            let actions = machine.handle(.failed(SignalError(.credential, "disk full")), now: Self.now)
            #expect(actions.contains(.send(.error(.init(code: "credential", message: "disk full")))))
            #expect(actions.contains(.discardKey) == (step == 3))
            #expect(closing(actions)??.message == "disk full")
        }
    }

    @Test func silenceEndsIt() {
        for step in [1, 2, 4, 6] {
            var machine = machine(after: step)
            let actions = machine.handle(.timedOut(.seconds(60)), now: Self.now)
            #expect(closing(actions)??.code == .timedOut)
            #expect(actions.contains(.discardKey) == (step == 4))
        }
    }

    @Test func certificateThatIsNotValidHereIsRefused() {
        for clock: Int64 in [Self.now - 3 * 86_400_000, Self.now + 3 * 86_400_000] {
            var machine = EnrollmentDevice(software: "test")
            for (event, _) in Self.steps.prefix(4) { _ = machine.handle(event, now: clock) }
            let actions = machine.handle(.message(.certificate(Sample.certificate)), now: clock)
            #expect(actions.first == .discardKey)
            #expect(closing(actions)??.code == .clock)
            #expect(closing(actions)??.message.contains("device clock is 3 d 0 h") == true)
        }
    }
}

/// Both machines, joined: what one sends the other takes.
@Suite struct EnrollmentConversationTests {
    /// Runs both until nothing moves; `lose` drops the nth message and cuts the channel there.
    private func run(
        deviceClock: Int64,
        lose: Int? = nil
    ) -> (operator: [EnrollmentOperator.Action], device: [EnrollmentDevice.Action]) {
        let now: Int64 = 1_000_000_000_000
        var here = EnrollmentOperator(.enroll(Sample.enroll), software: "test")
        var there = EnrollmentDevice(software: "test")
        var toDevice: [EnrollmentDevice.Event] = [.started]
        var toOperator: [EnrollmentOperator.Event] = [.started]
        var log: (operator: [EnrollmentOperator.Action], device: [EnrollmentDevice.Action]) = ([], [])
        var sent = 0
        var isCut = false
        func passes() -> Bool {
            defer { sent += 1 }
            if sent == lose { isCut = true }
            return !isCut
        }
        while !toDevice.isEmpty || !toOperator.isEmpty {
            while !toOperator.isEmpty {
                for action in here.handle(toOperator.removeFirst(), now: now) {
                    log.operator.append(action)
                    switch action {
                    case .send(let message): if passes() { toDevice.append(.message(message)) }
                    case .issue: toOperator.append(.issued(Sample.certificate))
                    default: break
                    }
                }
            }
            while !toDevice.isEmpty {
                for action in there.handle(toDevice.removeFirst(), now: deviceClock) {
                    log.device.append(action)
                    switch action {
                    case .send(let message): if passes() { toOperator.append(.message(message)) }
                    case .prepareKey: toDevice.append(.prepared(Sample.request))
                    case .install: toDevice.append(.installed(Sample.ack))
                    default: break
                    }
                }
            }
            if toDevice.isEmpty, toOperator.isEmpty {
                if log.operator.last != .close { toOperator.append(.ended(nil)) }
                if case .close = log.device.last {} else { toDevice.append(.ended(nil)) }
            }
        }
        return log
    }

    @Test func succeeds() {
        let log = run(deviceClock: 1_000_000_000_000)
        #expect(log.operator.contains(.succeeded(Sample.ack)))
        #expect(log.device.last == .close(nil))
    }

    @Test func cutAtEveryMessage() {
        for lost in 0..<6 {
            let log = run(deviceClock: 1_000_000_000_000, lose: lost)
            #expect(!log.operator.contains(.succeeded(Sample.ack)), "message \(lost)")
            let installed = log.device.contains { if case .install = $0 { true } else { false } }
            let prepared = log.device.contains { if case .prepareKey = $0 { true } else { false } }
            let discarded = log.device.contains(.discardKey)
            #expect(installed || !prepared || discarded, "message \(lost): a key that is neither used nor dropped")
            #expect(!(installed && discarded), "message \(lost): a credential that was used and dropped")
        }
    }

    @Test func farClockEndsItBeforeAKeyIsMade() {
        let log = run(deviceClock: 0)
        #expect(!log.device.contains { if case .prepareKey = $0 { true } else { false } })
        guard case .close(let error) = log.device.last else {
            Issue.record("the device did not close")
            return
        }
        #expect(error?.code == .clock)
    }
}

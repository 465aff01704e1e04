import Foundation
import Platform
import Testing

@testable import SSHSignal

/// The negotiation alone, against docs/vectors/negotiation.txt and against whatever else may come.
@Suite struct NegotiationTests {
    private struct Vectors {
        var conversations: [String: [(who: String, bytes: [UInt8])]] = [:]
        var bad: [[UInt8]] = []
        var good: [[UInt8]] = []
    }

    private func vectors() throws -> Vectors {
        let file = URL(filePath: #filePath).deletingLastPathComponent().appending(
            path: "../../../docs/vectors/negotiation.txt"
        )
        var vectors = Vectors()
        var name = ""
        for line in try String(contentsOf: file, encoding: .utf8).split(separator: "\n") where !line.hasPrefix("#") {
            let words = line.split(separator: " ")
            if words[0] == "conversation" {
                name = String(words[1])
                continue
            }
            let digits = Array(words[1].utf8)
            let bytes = try stride(from: 0, to: digits.count, by: 2).map { index in
                try #require(UInt8(String(decoding: digits[index..<index + 2], as: UTF8.self), radix: 16))
            }
            switch words[0] {
            case "bad": vectors.bad.append(bytes)
            case "good": vectors.good.append(bytes)
            default: vectors.conversations[name, default: []].append((String(words[0]), bytes))
            }
        }
        return vectors
    }

    private func message(_ frame: [UInt8]) throws -> SignalMessage {
        var decoder = SignalFrameDecoder()
        decoder.append(frame)
        return try #require(try decoder.next())
    }

    private let own = SignalMessage.Offer(
        alpn: ["h2"],
        reverse: false,
        transports: ["h2", "h2-over-ssh", "ssh"],
        candidates: []
    )

    /// Plays the operator of a conversation; returns what it has found out.
    private func play(
        _ name: String,
        _ purpose: NegotiationOperator.Purpose,
        after before: PeerOffer? = nil
    ) throws -> [NegotiationOperator.Action] {
        let frames = try #require(try vectors().conversations[name])
        var machine = NegotiationOperator(purpose, after: before, software: "bootstrap 0.1.0")
        var clock: Int64 = 0
        for frame in frames where frame.who == "operator" {
            if case .hello(let hello) = try message(frame.bytes) { clock = hello.clock }
        }
        var output: [[UInt8]] = []
        var others: [NegotiationOperator.Action] = []
        for frame in frames where frame.who == "device" {
            for action in machine.handle(.message(try message(frame.bytes)), now: clock) {
                if case .send(let message) = action {
                    output.append(try SignalFrame.encode(message))
                } else {
                    others.append(action)
                }
            }
        }
        #expect(output == frames.filter { $0.who == "operator" }.map(\.bytes))
        return others
    }

    @Test func theOperatorsSide() throws {
        let found = try play("offer", .offer(own))
        guard case .offered(let offer)? = found.first else {
            Issue.record("\(found)")
            return
        }
        #expect(found == [.offered(offer), .close])
        #expect(offer.generation == 1_795_381_435)
        let places = ["home.example.org:25008", "192.0.2.7:15008", "[2001:db8::7]:15008"]
        #expect(offer.candidates.map(\.description) == places)
        #expect(offer.gateways.map(\.address.description) == ["gw.example.org:15008"])
        #expect(!offer.takesReverse)
        // What has not changed is not told again.
        #expect(try play("again", .offer(own), after: offer) == [.offered(offer), .close])
        let outcome = try vectors().conversations["outcome"]?.compactMap { frame in
            if case .outcome(let outcome) = try message(frame.bytes) { outcome } else { nil }
        }
        #expect(try play("outcome", .outcome(try #require(outcome?.first))) == [.told, .close])
    }

    @Test(arguments: ["offer", "outcome", "again"])
    func theDevicesSide(name: String) throws {
        let frames = try #require(try vectors().conversations[name])
        var machine = EnrollmentDevice(software: "bootstrap 0.1.0")
        var output: [[UInt8]] = []
        var events: [EnrollmentDevice.Event] = [.started]
        var clock: Int64 = 0
        var answer: SignalMessage.Offer?
        for frame in frames {
            switch (frame.who, try message(frame.bytes)) {
            case ("device", .hello(let hello)): clock = hello.clock
            case ("device", .offer(let offer)): answer = offer
            case ("operator", let message): events.append(.message(message))
            default: break
            }
        }
        var noted: [SignalMessage.Outcome] = []
        var ended = false
        while !events.isEmpty {
            for action in machine.handle(events.removeFirst(), now: clock) {
                switch action {
                case .send(let message): output.append(try SignalFrame.encode(message))
                case .makeOffer: events.insert(.offer(try #require(answer)), at: 0)
                case .note(let outcome): noted.append(outcome)
                case .close(let error):
                    #expect(error == nil)
                    ended = true
                default: Issue.record("\(action)")
                }
            }
        }
        #expect(output == frames.filter { $0.who == "device" }.map(\.bytes))
        #expect(noted.count == (name == "outcome" ? 1 : 0))
        #expect(ended)
    }

    private func asked(after before: PeerOffer? = nil) -> NegotiationOperator {
        var machine = NegotiationOperator(.offer(own), after: before, software: "test")
        _ = machine.handle(.message(.hello(Sample.hello)), now: 0)
        return machine
    }

    private func failure(_ actions: [NegotiationOperator.Action]) -> SignalError.Code? {
        for case .failed(let error) in actions { return error.code }
        return nil
    }

    @Test("of an offer against the rules nothing is taken")
    func badOffers() throws {
        for frame in try vectors().bad {
            let text = String(decoding: frame.dropFirst(4), as: UTF8.self)
            var decoder = SignalFrameDecoder()
            decoder.append(frame)
            var machine = asked()
            let actions: [NegotiationOperator.Action]
            do throws(SignalError) {
                guard let message = try decoder.next() else {
                    Issue.record("no message: \(text)")
                    continue
                }
                actions = machine.handle(.message(message), now: 0)
            } catch {
                actions = machine.handle(.invalid(error), now: 0)
            }
            #expect(failure(actions) == .malformed, "\(text)")
            #expect(!actions.contains { if case .offered = $0 { true } else { false } }, "\(text)")
            #expect(actions.last == .close)
            #expect(machine.handle(.message(.offer(own)), now: 0) == [], "it is over")
        }
    }

    @Test("what nobody knows is ignored")
    func unknownFields() throws {
        for frame in try vectors().good {
            var machine = asked()
            let actions = machine.handle(.message(try message(frame)), now: 0)
            #expect(actions.contains { if case .offered = $0 { true } else { false } })
        }
    }

    @Test("nothing has changed, of another generation or of nothing")
    func falseMemory() {
        var before = PeerOffer()
        before.generation = 7
        for offer in [SignalMessage.Offer(generation: 8, unchanged: true), .init(unchanged: true)] {
            var machine = asked(after: before)
            #expect(failure(machine.handle(.message(.offer(offer)), now: 0)) == .malformed)
        }
        var machine = asked()
        #expect(failure(machine.handle(.message(.offer(.init(unchanged: true))), now: 0)) == .malformed)
    }

    @Test("a device with an older agent gets a bye, and nothing that it does not know")
    func olderAgent() {
        var hello = Sample.hello
        hello.capabilities.removeAll { $0 == "offer" }
        for purpose in [
            NegotiationOperator.Purpose.offer(own),
            .outcome(.init(generation: nil, tried: [], chosen: nil, reason: "")),
        ] {
            var machine = NegotiationOperator(purpose, software: "test")
            let actions = machine.handle(.message(.hello(hello)), now: 0)
            #expect(actions.suffix(3) == [.send(.bye(.init())), .unsupported, .close])
            #expect(actions.count == 4)
        }
    }

    @Test("whatever has no place in the conversation ends it")
    func outOfPlace() {
        let messages: [SignalMessage] = [
            .csr(Sample.request), .ack(Sample.ack), .endpoints(.init(hbone: [])), .bye(.init()),
            .outcome(.init(generation: nil, tried: [], chosen: nil, reason: "")),
        ]
        for message in messages + [.offer(own)] {
            var machine = NegotiationOperator(.offer(own), software: "test")
            #expect(failure(machine.handle(.message(message), now: 0)) == .unexpected)
        }
        for message in messages + [.hello(Sample.hello)] {
            var machine = asked()
            #expect(failure(machine.handle(.message(message), now: 0)) == .unexpected)
        }
        var machine = asked()
        #expect(failure(machine.handle(.timedOut(.seconds(30)), now: 0)) == .timedOut)
        machine = asked()
        #expect(failure(machine.handle(.ended(nil), now: 0)) == .truncated)
        machine = asked()
        #expect(machine.handle(.message(.unknown(type: "news")), now: 0) == [])
    }
}

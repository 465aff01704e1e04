import Foundation
import Platform
import Testing

@testable import SSHSignal

/// One of each message, with every field set.
enum Sample {
    static let enroll = SignalMessage.Enroll(
        id: "spiffe://demo.example/ns/default/sa/dev7",
        node: .init(bind: "0.0.0.0", port: 15008, allowPorts: [22, 8080])
    )
    static let hello = SignalMessage.Hello(
        version: 1,
        minimumVersion: 1,
        software: "bootstrap 0.1.0",
        clock: 1_000_000_000_000,
        capabilities: ["enroll", "renew", "endpoints", "probe", "revocations", "access", "offer"]
    )
    static let request = SignalMessage.SigningRequest(id: enroll.id, csr: "-----BEGIN CERTIFICATE REQUEST-----\n…")
    static let certificate = SignalMessage.IssuedCertificate(
        chain: "chain/\"\n\u{1F600}",
        roots: "roots",
        notBefore: 999_999_880,
        notAfter: 1_000_086_400
    )
    static let ack = SignalMessage.Acknowledgement(
        id: enroll.id,
        listener: "0.0.0.0:15008",
        hbone: ["10.0.0.7:15008", "[2001:db8::7]:15008"],
        node: "started",
        unchanged: []
    )

    static let all: [SignalMessage] = [
        .hello(hello), .enroll(enroll), .renew(.init()), .csr(request), .certificate(certificate), .ack(ack),
        .access(.init(id: enroll.id, allow: ["22"], deny: ["10.0.0.9:554"])),
        .endpoints(.init()), .endpoints(.init(hbone: ["10.0.0.7:15008"])), .probe(.init(nonce: "n", clock: 5)),
        .revocations(.init(lists: "lists")), .revocations(.init(changed: true)),
        .bye(.init()), .error(.init(code: "credential", message: "disk full")),
    ]

    static func frame(_ json: String) -> [UInt8] {
        let length = UInt32(json.utf8.count)
        return [UInt8(length >> 24), UInt8(length >> 16 & 255), UInt8(length >> 8 & 255), UInt8(length & 255)]
            + Array(json.utf8)
    }
}

@Suite struct SignalFrameTests {
    @Test func everyMessageSurvivesTheWire() throws {
        var decoder = SignalFrameDecoder()
        for message in Sample.all { decoder.append(try SignalFrame.encode(message)) }
        for message in Sample.all { #expect(try decoder.next() == message) }
        #expect(try decoder.next() == nil)
        try decoder.finish()
    }

    @Test func bytesMayBeCutAnywhere() throws {
        let stream = try Sample.all.flatMap { try SignalFrame.encode($0) }
        for cut in 0...stream.count {
            var decoder = SignalFrameDecoder()
            var messages: [SignalMessage] = []
            for part in [stream[..<cut], stream[cut...]] {
                decoder.append(part)
                while let message = try decoder.next() { messages.append(message) }
            }
            #expect(messages == Sample.all, "cut at \(cut)")
            try decoder.finish()
        }
        var decoder = SignalFrameDecoder()
        var messages: [SignalMessage] = []
        for byte in stream {
            decoder.append([byte])
            while let message = try decoder.next() { messages.append(message) }
        }
        #expect(messages == Sample.all)
    }

    @Test func endInsideAFrameIsTruncation() throws {
        let frame = try SignalFrame.encode(.hello(Sample.hello))
        for cut in 1..<frame.count {
            var decoder = SignalFrameDecoder()
            decoder.append(frame[..<cut])
            #expect(try decoder.next() == nil)
            let error = #expect(throws: SignalError.self) { try decoder.finish() }
            #expect(error?.code == .truncated)
        }
    }

    @Test func tooLongIsRefusedBeforeItArrives() throws {
        var decoder = SignalFrameDecoder()
        decoder.append([0x00, 0x10, 0x00, 0x01])
        let error = #expect(throws: SignalError.self) { try decoder.next() }
        #expect(error?.code == .tooLong)
        // Nothing can be found again after that.
        decoder.append(try SignalFrame.encode(.bye(.init())))
        #expect(throws: SignalError.self) { try decoder.next() }
        #expect(throws: SignalError.self) { try decoder.finish() }
    }

    @Test func longestIsAccepted() throws {
        let filler = String(repeating: "x", count: SignalFrame.maximumLength - 25)
        let json = "{\"type\":\"bye\",\"filler\":\"\(filler)\"}"
        let frame = Sample.frame(String(json.prefix(SignalFrame.maximumLength - 2)) + "\"}")
        #expect(frame.count == SignalFrame.maximumLength + 4)
        var decoder = SignalFrameDecoder()
        decoder.append(frame)
        #expect(try decoder.next() == .bye(.init()))
    }

    /// What an operator sends may be longer, what a device sends may not.
    @Test func revocationListsMayBeLong() throws {
        let lists = String(repeating: "x", count: 4 << 20)
        let frame = try SignalFrame.encode(.revocations(.init(lists: lists)))
        var device = SignalFrameDecoder(limitAfterHello: SignalFrame.maximumOrderLength)
        device.append(try SignalFrame.encode(SignalProtocol.hello(software: "x", now: 1)))
        guard case .hello = try device.next() else {
            Issue.record("no hello")
            return
        }
        device.append(frame)
        #expect(try device.next() == .revocations(.init(lists: lists)))
        for limit in [SignalFrame.maximumLength, SignalFrame.maximumOrderLength] {
            // Nobody has said hello, or it is an operator who reads.
            var other = SignalFrameDecoder(limitAfterHello: limit)
            if limit == SignalFrame.maximumLength {
                other.append(try SignalFrame.encode(SignalProtocol.hello(software: "x", now: 1)))
                _ = try other.next()
            }
            other.append(frame.prefix(4))
            #expect(throws: SignalError.self) { try other.next() }
        }
        #expect(throws: SignalError.self) {
            try SignalFrame.encode(.revocations(.init(lists: String(repeating: "x", count: 18 << 20))))
        }
    }

    @Test func ownMessageOverTheLimitIsNotSent() {
        let long = String(repeating: "x", count: SignalFrame.maximumLength)
        let error = #expect(throws: SignalError.self) {
            try SignalFrame.encode(.error(.init(code: "x", message: long)))
        }
        #expect(error?.code == .tooLong)
    }

    @Test func whatIsNotKnownIsIgnored() throws {
        var decoder = SignalFrameDecoder()
        decoder.append(Sample.frame(#"{"type":"future","x":[1,{"y":null}]}"#))
        decoder.append(Sample.frame(#"{"type":"probe","nonce":"n","clock":1,"extra":{"a":[]}}"#))
        #expect(try decoder.next() == .unknown(type: "future"))
        #expect(try decoder.next() == .probe(.init(nonce: "n", clock: 1)))
    }

    @Test(arguments: [
        ("", "not valid JSON"), ("{", "not valid JSON"), ("nonsense", "not valid JSON"),
        ("[]", "the message is not an object"),
        ("\"hello\"", "the message is not an object"), ("{}", "'type' is missing"),
        (#"{"type":7}"#, "'type' is not a text"), (#"{"type":null}"#, "'type' is null"),
        (#"{"type":"csr"}"#, "is missing"), (#"{"type":"csr","id":"x","csr":7}"#, "'csr' is not a text"),
        (#"{"type":"probe","nonce":"n","clock":1e99}"#, "does not fit"),
        (#"{"type":"probe","nonce":"n","clock":"1"}"#, "clock"),
        (#"{"type":"enroll","id":"x","node":{"bind":"","port":70000,"allowPorts":[]}}"#, "does not fit"),
        (#"{"type":"enroll","id":"x","node":{"bind":"","port":1,"allowPorts":[-1]}}"#, "does not fit"),
        (#"{"type":"bye"} {"type":"bye"}"#, "not valid JSON"),
    ])
    func damage(json: String, reason: String) throws {
        var decoder = SignalFrameDecoder()
        decoder.append(Sample.frame(json))
        let error = #expect(throws: SignalError.self) { try decoder.next() }
        #expect(error?.code == .malformed)
        #expect(error?.message.contains(reason) == true, "\(error?.message ?? "")")
    }

    @Test func deepNestingIsSurvived() throws {
        for opening in ["[", "{\"a\":"] {
            var decoder = SignalFrameDecoder()
            decoder.append(Sample.frame(String(repeating: opening, count: 100_000)))
            #expect(throws: SignalError.self) { try decoder.next() }
        }
    }

    @Test func noiseNeverTraps() {
        var generator = SystemRandomNumberGenerator()
        for _ in 0..<2000 {
            var frame = (try? SignalFrame.encode(Sample.all.randomElement()!)) ?? []
            for _ in 0..<Int.random(in: 1...4) {
                let index = Int.random(in: 2..<frame.count)
                frame[index] = UInt8.random(in: .min ... .max, using: &generator)
            }
            var decoder = SignalFrameDecoder()
            decoder.append(frame)
            while let message = try? decoder.next() { _ = message }
            try? decoder.finish()
        }
    }
}

@Suite struct PrintableTests {
    @Test func controlCharactersAreReplaced() {
        #expect(Printable.clean("a\u{1B}[31mred\u{7}") == "a?[31mred?")
        #expect(Printable.clean("  two \r\n lines\t") == "two lines")
        #expect(Printable.clean("turn\u{202E}ed \u{200B}x") == "turn?ed ?x")
        #expect(Printable.clean([0x61, 0xFF, 0x00, 0x62]) == "a??b")
        #expect(Printable.clean("grün 日本") == "grün 日本")
        #expect(Printable.clean("abcdef", limit: 3) == "abc…")
    }
}

@Suite struct TimestampTests {
    @Test func sameAsFoundation() {
        let formatter = ISO8601DateFormatter()
        for seconds: Int64 in [
            0, 1, 951_782_400, 1_000_000_000, 1_709_164_800, 4_102_444_799, -1, -86_401, 253_402_300_799,
        ] {
            #expect(Timestamp.text(seconds) == formatter.string(from: Date(timeIntervalSince1970: Double(seconds))))
        }
        for _ in 0..<500 {
            let seconds = Int64.random(in: -2_000_000_000...10_000_000_000)
            #expect(Timestamp.text(seconds) == formatter.string(from: Date(timeIntervalSince1970: Double(seconds))))
        }
        #expect(Timestamp.text(.max) == "9999-12-31T23:59:59Z")
    }

    @Test(
        arguments: [
            (0, "0 s"), (59_999, "59 s"), (60_000, "1 min 0 s"), (3_599_000, "59 min 59 s"), (11_520_000, "3 h 12 min"),
            (259_200_000, "3 d 0 h"), (Int64.max, "106751991167 d 7 h"),
        ] as [(Int64, String)]
    )
    func durations(milliseconds: Int64, text: String) {
        #expect(ClockSkew.text(milliseconds: milliseconds) == text)
    }
}

import Foundation
import MeshIdentity
import Testing

@testable import SSHSignal

/// docs/vectors/enrolment.txt: a session as it was captured. Each side, given what the other one said there, says what
/// it said there, byte for byte: the vector is what another implementation is written against.
@Suite struct CapturedSessionTests {
    private enum Side: String {
        case device
        case `operator`
    }

    private struct Frame {
        var sender: Side
        var bytes: [UInt8]
        var message: SignalMessage
    }

    private func session() throws -> [Frame] {
        let file = URL(filePath: #filePath).deletingLastPathComponent().appending(
            path: "../../../docs/vectors/enrolment.txt"
        )
        let lines = try String(contentsOf: file, encoding: .utf8).split(separator: "\n").filter { !$0.hasPrefix("#") }
        return try lines.map { line in
            let words = line.split(separator: " ")
            let sender = try #require(Side(rawValue: String(words[0])))
            let digits = Array(words[1].utf8)
            let bytes = try stride(from: 0, to: digits.count, by: 2).map { index in
                try #require(UInt8(String(decoding: digits[index..<index + 2], as: UTF8.self), radix: 16))
            }
            var decoder = SignalFrameDecoder()
            // However the bytes are cut.
            for byte in bytes.dropLast() {
                decoder.append([byte])
                #expect(try decoder.next() == nil)
            }
            decoder.append(bytes.suffix(1))
            let message = try #require(try decoder.next())
            try decoder.finish()
            return Frame(sender: sender, bytes: bytes, message: message)
        }
    }

    private func sent(by side: Side, in session: [Frame]) -> [[UInt8]] {
        session.filter { $0.sender == side }.map(\.bytes)
    }

    @Test func theOperatorsSide() throws {
        let session = try session()
        var purpose: EnrollmentOperator.Purpose?
        var certificate: SignalMessage.IssuedCertificate?
        var clock: Int64 = 0
        for frame in session where frame.sender == .operator {
            switch frame.message {
            case .hello(let hello): clock = hello.clock
            case .enroll(let order): purpose = .enroll(order)
            case .certificate(let issued): certificate = issued
            default: break
            }
        }
        var machine = EnrollmentOperator(try #require(purpose), software: "bootstrap 0.1.0")
        var output: [[UInt8]] = []
        var acknowledgement: SignalMessage.Acknowledgement?
        var events: [EnrollmentOperator.Event] = [.started]
        events += session.filter { $0.sender == .device }.map { .message($0.message) }
        while !events.isEmpty {
            for action in machine.handle(events.removeFirst(), now: clock) {
                switch action {
                case .send(let message): output.append(try SignalFrame.encode(message))
                case .issue: events.insert(.issued(try #require(certificate)), at: 0)
                case .succeeded(let ack): acknowledgement = ack
                case .close: break
                default: Issue.record("\(action)")
                }
            }
        }
        #expect(output == sent(by: .operator, in: session))
        #expect(acknowledgement?.node == "started")
    }

    @Test func theDevicesSide() throws {
        let session = try session()
        var request: SignalMessage.SigningRequest?
        var acknowledgement: SignalMessage.Acknowledgement?
        var clock: Int64 = 0
        for frame in session where frame.sender == .device {
            switch frame.message {
            case .hello(let hello): clock = hello.clock
            case .csr(let csr): request = csr
            case .ack(let ack): acknowledgement = ack
            default: break
            }
        }
        var machine = EnrollmentDevice(software: "bootstrap 0.1.0")
        var output: [[UInt8]] = []
        var ended = false
        var events: [EnrollmentDevice.Event] = [.started]
        events += session.filter { $0.sender == .operator }.map { .message($0.message) }
        while !events.isEmpty {
            for action in machine.handle(events.removeFirst(), now: clock) {
                switch action {
                case .send(let message): output.append(try SignalFrame.encode(message))
                case .prepareKey: events.insert(.prepared(try #require(request)), at: 0)
                case .install: events.insert(.installed(try #require(acknowledgement)), at: 0)
                case .close(let error):
                    #expect(error == nil)
                    ended = true
                default: Issue.record("\(action)")
                }
            }
        }
        #expect(output == sent(by: .device, in: session))
        #expect(ended)
    }

    /// What the messages carry is real: a request for the identity, and a chain for the same key that leads to the
    /// roots.
    @Test func theCredential() throws {
        var order: SignalMessage.Enroll?
        var request: CertificateRequest?
        var issued: SignalMessage.IssuedCertificate?
        for frame in try session() {
            switch frame.message {
            case .enroll(let enroll): order = enroll
            case .csr(let csr): request = try CertificateRequest(pem: Array(csr.csr.utf8))
            case .certificate(let certificate): issued = certificate
            default: break
            }
        }
        let certificate = try #require(issued)
        let chain = try Certificate.all(pem: Array(certificate.chain.utf8))
        let credential = IssuedCertificate(chain: chain, roots: try Certificate.all(pem: Array(certificate.roots.utf8)))
        let id = try SPIFFEID(try #require(order).id)
        #expect(id.description == "spiffe://vector.example/ns/prod/sa/camera")
        try credential.verify(for: try #require(request), id: id, at: certificate.notBefore + 120)
        #expect(chain.first?.notBefore == certificate.notBefore)
        #expect(chain.first?.notAfter == certificate.notAfter)
    }
}

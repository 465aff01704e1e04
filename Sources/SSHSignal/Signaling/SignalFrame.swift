import Platform

/// Puts messages on the wire: four bytes of length, big endian, then that many bytes of JSON.
package enum SignalFrame {
    /// Of the JSON. A certificate chain is some kilobytes; this leaves room for large bundles and bounds what a peer
    /// can make us keep.
    package static let maximumLength = 1 << 20
    /// The same for what an operator sends: revocation lists have up to 16 MiB in PEM form.
    package static let maximumOrderLength = 18 << 20

    /// - Throws: ``SignalError`` when the message is longer than ``maximumLength``, or than ``maximumOrderLength``
    ///   where it has revocation lists.
    package static func encode(_ message: SignalMessage) throws(SignalError) -> [UInt8] {
        let json: [UInt8]
        do {
            json = try JSONText.encode(Envelope(message: message))
        } catch {
            throw SignalError(.malformed, "a \(message.type) message cannot be encoded: \(error)")
        }
        let limit =
            switch message {
            case .certificate, .revocations: maximumOrderLength
            default: maximumLength
            }
        guard json.count <= limit else {
            throw SignalError(
                .tooLong,
                "a \(message.type) message of \(json.count) bytes is over the limit of \(limit)"
            )
        }
        let length = UInt32(json.count)
        return (0..<4).map { UInt8(truncatingIfNeeded: length >> (24 - 8 * $0)) } + json
    }

    /// - Throws: ``SignalError`` with ``SignalError/Code/malformed``.
    static func decode(_ json: some Collection<UInt8>) throws(SignalError) -> SignalMessage {
        do {
            return try JSONText.decode(Envelope.self, from: json).message
        } catch let error as UnreadableJSON {
            let place = error.place.map { "'\($0)'" } ?? "the message"
            throw SignalError(.malformed, "malformed message: \(place) \(error.problem)")
        } catch {
            throw SignalError(.malformed, "malformed message: not JSON")
        }
    }

    /// A message with its type beside its fields.
    private struct Envelope: Codable {
        var message: SignalMessage

        private enum Key: String, CodingKey { case type }

        init(message: SignalMessage) { self.message = message }

        init(from decoder: any Decoder) throws {
            let type = try decoder.container(keyedBy: Key.self).decode(String.self, forKey: .type)
            switch type {
            case "hello": message = .hello(try .init(from: decoder))
            case "enroll": message = .enroll(try .init(from: decoder))
            case "renew": message = .renew(try .init(from: decoder))
            case "access": message = .access(try .init(from: decoder))
            case "csr": message = .csr(try .init(from: decoder))
            case "certificate": message = .certificate(try .init(from: decoder))
            case "ack": message = .ack(try .init(from: decoder))
            case "endpoints": message = .endpoints(try .init(from: decoder))
            case "revocations": message = .revocations(try .init(from: decoder))
            case "offer": message = .offer(try .init(from: decoder))
            case "outcome": message = .outcome(try .init(from: decoder))
            case "probe": message = .probe(try .init(from: decoder))
            case "bye": message = .bye(try .init(from: decoder))
            case "error": message = .error(try .init(from: decoder))
            default: message = .unknown(type: type)
            }
        }

        func encode(to encoder: any Encoder) throws {
            var container = encoder.container(keyedBy: Key.self)
            try container.encode(message.type, forKey: .type)
            switch message {
            case .hello(let payload): try payload.encode(to: encoder)
            case .enroll(let payload): try payload.encode(to: encoder)
            case .renew(let payload): try payload.encode(to: encoder)
            case .access(let payload): try payload.encode(to: encoder)
            case .csr(let payload): try payload.encode(to: encoder)
            case .certificate(let payload): try payload.encode(to: encoder)
            case .ack(let payload): try payload.encode(to: encoder)
            case .endpoints(let payload): try payload.encode(to: encoder)
            case .revocations(let payload): try payload.encode(to: encoder)
            case .offer(let payload): try payload.encode(to: encoder)
            case .outcome(let payload): try payload.encode(to: encoder)
            case .probe(let payload): try payload.encode(to: encoder)
            case .bye(let payload): try payload.encode(to: encoder)
            case .error(let payload): try payload.encode(to: encoder)
            case .unknown: break
            }
        }
    }
}

/// Takes messages off the wire, however the bytes are cut.
package struct SignalFrameDecoder: Sendable {
    private var buffer: [UInt8] = []
    /// Bytes of ``buffer`` that have been decoded.
    private var consumed = 0
    private var failure: SignalError?
    private var limit = SignalFrame.maximumLength
    private let limitAfterHello: Int

    /// - Parameter limitAfterHello: Of one message, in bytes, once the peer has said who it is; what is longer is
    ///   refused.
    package init(limitAfterHello: Int = SignalFrame.maximumLength) { self.limitAfterHello = limitAfterHello }

    /// Adds what has arrived.
    package mutating func append(_ bytes: some Sequence<UInt8>) {
        if consumed > 0 {
            buffer.removeFirst(consumed)
            consumed = 0
        }
        buffer.append(contentsOf: bytes)
    }

    /// The next message; nil when more bytes are needed. After an error the stream has no frames any more: every
    /// further call throws the same.
    package mutating func next() throws(SignalError) -> SignalMessage? {
        if let failure { throw failure }
        let available = buffer.count - consumed
        guard available >= 4 else { return nil }
        let length = buffer[consumed..<consumed + 4].reduce(0) { $0 << 8 | Int($1) }
        do throws(SignalError) {
            guard length <= limit else {
                throw SignalError(.tooLong, "a message of \(length) bytes is over the limit of \(limit)")
            }
            guard available >= 4 + length else { return nil }
            let message = try SignalFrame.decode(buffer[consumed + 4..<consumed + 4 + length])
            consumed += 4 + length
            if case .hello = message { limit = limitAfterHello }
            return message
        } catch {
            failure = error
            throw error
        }
    }

    /// To be called at the end of the input, after ``next()`` returned nil.
    ///
    /// - Throws: ``SignalError`` with ``SignalError/Code/truncated`` when the input ended inside a frame.
    package func finish() throws(SignalError) {
        if let failure { throw failure }
        guard buffer.count == consumed else {
            throw SignalError(
                .truncated,
                "the channel ended inside a message (\(buffer.count - consumed) bytes of it arrived)"
            )
        }
    }
}

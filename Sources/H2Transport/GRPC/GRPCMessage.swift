import Streams

/// A message in the body of a gRPC call: one byte that says whether it is compressed, its length in four bytes, big
/// endian, and the message.
enum GRPCMessage {
    static func frame(_ message: [UInt8]) -> [UInt8] {
        let length = UInt32(message.count)
        return [0] + (0..<4).map { UInt8(truncatingIfNeeded: length >> (24 - 8 * $0)) } + message
    }

    /// The one message that the body of a unary call's answer is.
    static func parse(_ body: [UInt8]) throws(StreamError) -> [UInt8] {
        guard body.count >= 5 else {
            throw StreamError(
                .protocolViolation,
                body.isEmpty ? "there is no message in the answer" : "the answer is cut"
            )
        }
        guard body[0] == 0 else {
            throw StreamError(.protocolViolation, "the answer is compressed, which was not offered")
        }
        let length = body[1..<5].reduce(0) { $0 << 8 | Int($1) }
        guard body.count - 5 == length else {
            let what = body.count - 5 < length ? "is cut" : "has more than one message"
            throw StreamError(.protocolViolation, "the answer \(what): \(body.count - 5) bytes of \(length)")
        }
        return Array(body[5...])
    }
}

extension GRPCMessage {
    /// Takes the first message off `body`; nil: not all of it is there.
    ///
    /// - Parameter limit: Of a message, in bytes.
    static func next(from body: inout [UInt8], limit: Int) throws(StreamError) -> [UInt8]? {
        guard body.count >= 5 else { return nil }
        guard body[0] == 0 else {
            throw StreamError(.protocolViolation, "a message is compressed, which was not offered")
        }
        let length = body[1..<5].reduce(0) { $0 << 8 | Int($1) }
        guard length <= limit else { throw StreamError(.limit, "a message has \(length) bytes; \(limit) are allowed") }
        guard body.count - 5 >= length else { return nil }
        defer { body.removeFirst(5 + length) }
        return Array(body[5..<5 + length])
    }
}

/// Finds the content of a message among the bytes of a connection (RFC 9112 §6 and §7). No I/O.
package struct HTTPBodyReader: Sendable {
    package enum Step: Hashable, Sendable {
        /// These bytes of the input are content; the next step goes on after them.
        case content(Range<Int>)
        /// Everything was looked at; `consumed` is the index from which the bytes are needed again, with more.
        case needsMore(consumed: Int)
        /// The message is over, and the next one begins at `next`.
        case end(next: Int, trailers: HTTPFields)
    }

    private enum State: Hashable {
        case none
        case length(UInt64)
        case chunkSize
        case chunk(UInt64)
        case chunkEnd
        case trailers
        case untilClose
    }

    private var state: State
    private let limits: HTTPLimits
    private var trailerParser: HTTPHeadParser

    /// With its extensions, which nobody uses.
    private static let longestChunkLine = 256

    package init(_ framing: HTTPFraming, limits: HTTPLimits = HTTPLimits()) {
        self.limits = limits
        trailerParser = HTTPHeadParser(limits: limits)
        state =
            switch framing {
            case .none: .none
            case .length(let count): .length(count)
            case .chunked: .chunkSize
            case .untilClose: .untilClose
            }
    }

    /// Whether an end of the connection is the end of the message now.
    package var mayEndHere: Bool { state == .untilClose || isOver }
    /// Whether nothing more belongs to the message.
    package var isOver: Bool { state == .none || state == .length(0) }
    /// How many bytes of the input are content for sure, whatever they are; nil where the input must be looked at.
    package var plainBytes: UInt64? {
        switch state {
        case .none: 0
        case .length(let rest): rest
        case .untilClose: .max
        default: nil
        }
    }

    /// So many bytes of ``plainBytes`` went another way.
    package mutating func skip(_ count: Int) {
        if case .length(let rest) = state { state = .length(rest - UInt64(count)) }
    }

    /// - Parameters:
    ///   - bytes: What has come.
    ///   - start: Where the step begins.
    package mutating func next(in bytes: [UInt8], from start: Int) throws(HTTPError) -> Step {
        var index = start
        while true {
            switch state {
            case .none, .length(0):
                state = .none
                return .end(next: index, trailers: HTTPFields())
            case .length(let rest):
                let count = Int(min(rest, UInt64(bytes.count - index)))
                guard count > 0 else { return .needsMore(consumed: index) }
                state = .length(rest - UInt64(count))
                return .content(index..<index + count)
            case .untilClose:
                guard index < bytes.count else { return .needsMore(consumed: index) }
                return .content(index..<bytes.count)
            case .chunk(let rest):
                let count = Int(min(rest, UInt64(bytes.count - index)))
                guard count > 0 else { return .needsMore(consumed: index) }
                state = rest == UInt64(count) ? .chunkEnd : .chunk(rest - UInt64(count))
                return .content(index..<index + count)
            case .chunkEnd:
                if index < bytes.count, bytes[index] != 13 { throw .bad("a chunk is longer than it says") }
                guard index + 1 < bytes.count else { return .needsMore(consumed: index) }
                guard bytes[index + 1] == 10 else { throw .bad("a chunk is longer than it says") }
                index += 2
                state = .chunkSize
            case .chunkSize:
                guard let end = try Self.lineEnd(in: bytes, from: index) else { return .needsMore(consumed: index) }
                let size = try Self.chunkSize(bytes[index..<end])
                index = end + 2
                state = size == 0 ? .trailers : .chunk(size)
            case .trailers:
                // Mostly there are none, and the line is empty.
                if index + 1 < bytes.count, bytes[index] == 13, bytes[index + 1] == 10 {
                    state = .none
                    return .end(next: index + 2, trailers: HTTPFields())
                }
                if index + 1 == bytes.count, bytes[index] == 13 { return .needsMore(consumed: index) }
                guard let end = try trailerParser.end(in: bytes, from: index) else {
                    guard bytes.count - index <= limits.trailers else { throw Self.tooLong(limits) }
                    return .needsMore(consumed: index)
                }
                guard end - index <= limits.trailers else { throw Self.tooLong(limits) }
                let trailers = try trailerParser.trailers(bytes[index..<end])
                state = .none
                return .end(next: end, trailers: trailers)
            }
        }
    }

    private static func tooLong(_ limits: HTTPLimits) -> HTTPError {
        HTTPError(431, "the trailers are longer than \(limits.trailers) bytes")
    }

    /// The index of the CRLF.
    private static func lineEnd(in bytes: [UInt8], from start: Int) throws(HTTPError) -> Int? {
        var index = start
        while index < bytes.count {
            switch bytes[index] {
            case 13:
                guard index + 1 < bytes.count else { return nil }
                guard bytes[index + 1] == 10 else { throw .bad("a CR stands without LF") }
                return index
            case 0x20...0x7E, 9: index += 1
            default: throw .bad("a chunk's size has characters that it must not have")
            }
            guard index - start <= longestChunkLine else { throw .bad("a chunk's size goes on for too long") }
        }
        return nil
    }

    /// Hexadecimal digits, and then nothing or `;` with extensions, which say nothing to anybody.
    private static func chunkSize(_ line: ArraySlice<UInt8>) throws(HTTPError) -> UInt64 {
        let digits = line.prefix { $0 != UInt8(ascii: ";") }
        guard (1...15).contains(digits.count), digits.allSatisfy({ hexValue($0) != nil }) else {
            throw .bad("a chunk's size is no hexadecimal number")
        }
        return digits.reduce(0) { $0 << 4 | (hexValue($1) ?? 0) }
    }

    private static func hexValue(_ byte: UInt8) -> UInt64? {
        switch byte {
        case 0x30...0x39: UInt64(byte - 0x30)
        case 0x41...0x46: UInt64(byte - 0x41) + 10
        case 0x61...0x66: UInt64(byte - 0x61) + 10
        default: nil
        }
    }
}

/// Writes content as chunks.
package enum HTTPChunk {
    /// What stands before `count` bytes of content, at least one; `\r\n` stands after them.
    package static func start(_ count: Int) -> [UInt8] { Array("\(String(count, radix: 16))\r\n".utf8) }

    /// What ends the message.
    package static func end(_ trailers: HTTPFields = HTTPFields()) -> [UInt8] {
        var bytes = Array("0\r\n".utf8)
        trailers.write(to: &bytes)
        bytes += [13, 10]
        return bytes
    }
}

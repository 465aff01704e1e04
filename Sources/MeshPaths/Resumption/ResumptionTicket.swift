import H2Transport
import MeshIdentity

/// What the field `resumable` says: in a request `1`, or which stream is to be resumed; in an answer the stream's
/// number and secret, or where it goes on. Never logged.
enum ResumptionField {
    static let name = "resumable"
    /// A client that asks for a new stream can resume one.
    static let offer = "1"
    /// That, and nothing else.
    static let offerAlone: HeaderFields = [name: offer]
}

/// A server's answer to a client that can resume: the stream's number there, and the secret that tokens are made of.
package struct ResumptionTicket: Hashable, Sendable {
    /// 128 bits, in the order of their bytes in memory: no array for each stream.
    struct Secret: Hashable, Sendable {
        let high: UInt64
        let low: UInt64

        init(high: UInt64, low: UInt64) {
            self.high = high
            self.low = low
        }

        /// - Parameter bytes: ``ResumptionTicket/secretSize`` of them.
        init(_ bytes: [UInt8]) {
            precondition(bytes.count == ResumptionTicket.secretSize, "a secret has 128 bits")
            (high, low) = bytes.withUnsafeBytes { bytes in
                (bytes.loadUnaligned(as: UInt64.self), bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self))
            }
        }

        var bytes: [UInt8] { withUnsafeBytes(of: (high, low)) { Array($0) } }
    }

    let id: UInt64
    let secret: Secret

    static let secretSize = 16

    init(id: UInt64, secret: Secret) {
        self.id = id
        self.secret = secret
    }

    package var field: String {
        String(unsafeUninitializedCapacity: Hexadecimal.mostDigits + 1 + 2 * Self.secretSize) { text in
            var count = Hexadecimal.write(id, to: text, at: 0)
            text[count] = UInt8(ascii: ".")
            count += 1
            for half in [secret.high, secret.low] {
                count = Hexadecimal.write(memory: half, to: text, at: count)
            }
            return count
        }
    }

    /// Whether `field` looks like a ticket: read is one only where it is needed.
    static func isTicket(_ field: String) -> Bool { (34...49).contains(field.utf8.count) }

    /// nil: no ticket, so that the stream is a plain one.
    init?(_ field: String) {
        let parts = field.split(separator: ".", omittingEmptySubsequences: false)
        guard parts.count == 2, let id = Hexadecimal.number(parts[0]),
            let secret = Hexadecimal.bytes(parts[1], count: Self.secretSize)
        else { return nil }
        self.init(id: id, secret: Secret(secret))
    }

    /// What proves one resumption: 128 bits that follow from the secret and are good for one generation.
    func token(generation: UInt64) -> [UInt8] {
        var message: [UInt8] = []
        for number in [id, generation] {
            for shift in stride(from: 56, through: 0, by: -8) {
                message.append(UInt8(truncatingIfNeeded: number >> shift))
            }
        }
        return Array(Digest.hmacSHA256(key: secret.bytes, message).prefix(Self.secretSize))
    }
}

/// What a client says to resume a stream.
package struct ResumptionRequest: Hashable, Sendable {
    package let id: UInt64
    let generation: UInt64
    let token: [UInt8]
    /// Where the server goes on.
    let position: UInt64

    init(_ ticket: ResumptionTicket, generation: UInt64, position: UInt64) {
        id = ticket.id
        self.generation = generation
        token = ticket.token(generation: generation)
        self.position = position
    }

    var field: String {
        "\(Hexadecimal.text(id)).\(Hexadecimal.text(generation)).\(Hexadecimal.text(token)).\(Hexadecimal.text(position))"
    }

    /// nil: that is none.
    package init?(_ field: String) {
        let parts = field.split(separator: ".", omittingEmptySubsequences: false)
        guard parts.count == 4, let id = Hexadecimal.number(parts[0]),
            let generation = Hexadecimal.number(parts[1]),
            let token = Hexadecimal.bytes(parts[2], count: ResumptionTicket.secretSize),
            let position = Hexadecimal.number(parts[3]), position < 1 << 62
        else { return nil }
        self.id = id
        self.generation = generation
        self.token = token
        self.position = position
    }

    /// In a time that does not depend on how much of it is right.
    func isProved(by ticket: ResumptionTicket) -> Bool {
        let expected = ticket.token(generation: generation)
        var difference: UInt8 = 0
        for index in expected.indices { difference |= expected[index] ^ token[index] }
        return difference == 0
    }
}

/// Lower-case hexadecimal, read strictly.
enum Hexadecimal {
    static func text(_ number: UInt64) -> String {
        String(unsafeUninitializedCapacity: mostDigits) { write(number, to: $0, at: 0) }
    }

    static func text(_ bytes: [UInt8]) -> String {
        String(unsafeUninitializedCapacity: 2 * bytes.count) { write(bytes, to: $0, at: 0) }
    }

    /// Of a number.
    static let mostDigits = 16

    /// Without zeros in front. Returns where the next digit goes.
    static func write(_ number: UInt64, to text: UnsafeMutableBufferPointer<UInt8>, at start: Int) -> Int {
        let count = max(1, (67 - number.leadingZeroBitCount) / 4)
        var rest = number
        for place in stride(from: start + count - 1, through: start, by: -1) {
            text[place] = digit(UInt8(truncatingIfNeeded: rest & 15))
            rest >>= 4
        }
        return start + count
    }

    /// Returns where the next digit goes.
    static func write(_ bytes: [UInt8], to text: UnsafeMutableBufferPointer<UInt8>, at start: Int) -> Int {
        var place = start
        for byte in bytes {
            text[place] = digit(byte >> 4)
            text[place + 1] = digit(byte & 15)
            place += 2
        }
        return place
    }

    /// The bytes of `word` as they stand in memory: sixteen digits. Returns where the next digit goes.
    static func write(memory word: UInt64, to text: UnsafeMutableBufferPointer<UInt8>, at start: Int) -> Int {
        let space = UnsafeMutableRawPointer(text.baseAddress! + start)
        space.storeBytes(of: digits(UInt32(truncatingIfNeeded: word.littleEndian)).littleEndian, as: UInt64.self)
        let rest = UInt32(truncatingIfNeeded: word.littleEndian >> 32)
        space.storeBytes(of: digits(rest).littleEndian, toByteOffset: 8, as: UInt64.self)
        return start + 16
    }

    /// Eight digits at once: of the lowest byte first, its upper half before its lower one.
    private static func digits(_ bytes: UInt32) -> UInt64 {
        var halves = UInt64(bytes)
        halves = (halves | halves << 16) & 0x0000_ffff_0000_ffff
        halves = (halves | halves << 8) & 0x00ff_00ff_00ff_00ff
        halves = (halves >> 4 & 0x000f_000f_000f_000f) | (halves & 0x000f_000f_000f_000f) << 8
        // Six more than fifteen carries into the next half where the digit is a letter.
        let letters = (halves &+ 0x0606_0606_0606_0606) >> 4 & 0x0101_0101_0101_0101
        return halves &+ 0x3030_3030_3030_3030 &+ letters &* 39
    }

    private static func digit(_ value: UInt8) -> UInt8 { value < 10 ? 48 + value : 87 + value }

    static func number(_ text: Substring) -> UInt64? {
        guard (1...16).contains(text.utf8.count), text.utf8.allSatisfy({ value($0) != nil }) else { return nil }
        return UInt64(text, radix: 16)
    }

    static func bytes(_ text: Substring, count: Int) -> [UInt8]? {
        guard text.utf8.count == 2 * count else { return nil }
        var bytes: [UInt8] = []
        bytes.reserveCapacity(count)
        var high: UInt8?
        for character in text.utf8 {
            guard let digit = value(character) else { return nil }
            if let first = high {
                bytes.append(first << 4 | digit)
                high = nil
            } else {
                high = digit
            }
        }
        return bytes
    }

    private static func value(_ character: UInt8) -> UInt8? {
        switch character {
        case UInt8(ascii: "0")...UInt8(ascii: "9"): character - UInt8(ascii: "0")
        case UInt8(ascii: "a")...UInt8(ascii: "f"): character - UInt8(ascii: "a") + 10
        default: nil
        }
    }
}

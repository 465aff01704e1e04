import MeshIdentity

/// What the field `resumable` says: in a request `1`, or which stream is to be resumed; in an answer the stream's
/// number and secret, or where it goes on. Never logged.
enum ResumptionField {
    static let name = "resumable"
    /// A client that asks for a new stream can resume one.
    static let offer = "1"
}

/// A server's answer to a client that can resume: the stream's number there, and the secret that tokens are made of.
package struct ResumptionTicket: Hashable, Sendable {
    let id: UInt64
    /// 128 bits.
    let secret: [UInt8]

    static let secretSize = 16

    init(id: UInt64, secret: [UInt8]) {
        self.id = id
        self.secret = secret
    }

    package var field: String {
        var field = Hexadecimal.text(id)
        field.reserveCapacity(field.utf8.count + 1 + 2 * Self.secretSize)
        field += "."
        field += Hexadecimal.text(secret)
        return field
    }

    /// Whether `field` looks like a ticket: read is one only where it is needed.
    static func isTicket(_ field: String) -> Bool { (34...49).contains(field.utf8.count) }

    /// nil: no ticket, so that the stream is a plain one.
    init?(_ field: String) {
        let parts = field.split(separator: ".", omittingEmptySubsequences: false)
        guard parts.count == 2, let id = Hexadecimal.number(parts[0]),
            let secret = Hexadecimal.bytes(parts[1], count: Self.secretSize)
        else { return nil }
        self.init(id: id, secret: secret)
    }

    /// What proves one resumption: 128 bits that follow from the secret and are good for one generation.
    func token(generation: UInt64) -> [UInt8] {
        var message: [UInt8] = []
        for number in [id, generation] {
            for shift in stride(from: 56, through: 0, by: -8) {
                message.append(UInt8(truncatingIfNeeded: number >> shift))
            }
        }
        return Array(Digest.hmacSHA256(key: secret, message).prefix(Self.secretSize))
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
    static func text(_ number: UInt64) -> String { String(number, radix: 16) }

    static func text(_ bytes: [UInt8]) -> String {
        String(unsafeUninitializedCapacity: 2 * bytes.count) { text in
            for (index, byte) in bytes.enumerated() {
                text[2 * index] = digit(byte >> 4)
                text[2 * index + 1] = digit(byte & 15)
            }
            return 2 * bytes.count
        }
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

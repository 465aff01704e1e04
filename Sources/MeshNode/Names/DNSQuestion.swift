import Platform

/// One question to a name server (RFC 1035 §4.1, RFC 6891), read with bounds on everything.
struct DNSQuestion: Hashable {
    /// RFC 1035 §3.2.2 and later ones; others are numbers.
    enum Kind {
        static let a: UInt16 = 1
        static let soa: UInt16 = 6
        static let ptr: UInt16 = 12
        static let aaaa: UInt16 = 28
        static let opt: UInt16 = 41
        /// RFC 9460 §14.1.
        static let svcb: UInt16 = 64
        static let https: UInt16 = 65
        static let any: UInt16 = 255
    }

    /// RFC 1035 §4.1.1 and RFC 6895 §2.3.
    enum Code: UInt16 {
        case success = 0
        case formatError = 1
        case serverFailure = 2
        case noSuchName = 3
        case notImplemented = 4
        case badVersion = 16
    }

    /// What cannot be read. With the identifier, where that can be read, there is an answer.
    struct Unreadable: Error, Hashable {
        /// nil: it is no question, and gets no answer.
        var code: Code?
    }

    var id: UInt16
    var isRecursionDesired: Bool
    /// In lower case, without the dot at its end; empty for the root.
    var name: String
    var kind: UInt16
    var isInternetClass: Bool
    /// Name, type and class as they came: an answer repeats them, letter by letter.
    var bytes: [UInt8]
    /// How much a datagram to whoever asks may hold; nil: it does not know EDNS, and takes 512.
    var datagramSize: Int?
    /// The DO bit (RFC 3225).
    var isDNSSECDesired = false

    /// - Parameter message: A whole message, without a length before it.
    init(parsing message: [UInt8]) throws(Unreadable) {
        // Answers get no answer, or two name servers would go on for ever.
        guard message.count >= 12, message[2] & 0x80 == 0 else { throw Unreadable(code: nil) }
        func word(_ at: Int) -> UInt16 { UInt16(message[at]) << 8 | UInt16(message[at + 1]) }
        id = word(0)
        isRecursionDesired = message[2] & 1 != 0
        guard message[2] >> 3 & 15 == 0 else { throw Unreadable(code: .notImplemented) }
        // RFC 9619: one question.
        guard word(4) == 1, word(6) == 0, word(8) == 0 else { throw Unreadable(code: .formatError) }

        var place = 12
        var text = ""
        while true {
            guard place < message.count else { throw Unreadable(code: .formatError) }
            let length = Int(message[place])
            place += 1
            if length == 0 { break }
            // A pointer has nothing before it that it could point to.
            guard length <= 63, place + length <= message.count, place + length - 12 < 255 else {
                throw Unreadable(code: .formatError)
            }
            if !text.isEmpty { text += "." }
            for byte in message[place..<place + length] { text += Self.letter(byte) }
            place += length
        }
        guard place + 4 <= message.count else { throw Unreadable(code: .formatError) }
        name = text
        kind = word(place)
        isInternetClass = word(place + 2) == 1
        place += 4
        bytes = Array(message[12..<place])

        var options = 0
        for _ in 0..<word(10) {
            guard let end = Self.skipName(message, place), end + 10 <= message.count else {
                throw Unreadable(code: .formatError)
            }
            let next = end + 10 + Int(word(end + 8))
            guard next <= message.count else { throw Unreadable(code: .formatError) }
            if word(end) == Kind.opt {
                options += 1
                guard options == 1, end == place + 1 else { throw Unreadable(code: .formatError) }
                datagramSize = max(512, Int(word(end + 2)))
                isDNSSECDesired = message[end + 6] & 0x80 != 0
                guard message[end + 5] == 0 else { throw Unreadable(code: .badVersion) }
            }
            place = next
        }
    }

    /// What is no letter of a host name is written so that it cannot be taken for one (RFC 1035 §5.1).
    private static func letter(_ byte: UInt8) -> String {
        switch byte {
        case UInt8(ascii: "A")...UInt8(ascii: "Z"): String(UnicodeScalar(byte | 0x20))
        case UInt8(ascii: "."), UInt8(ascii: "\\"): "\\" + String(UnicodeScalar(byte))
        case 0x21...0x7e: String(UnicodeScalar(byte))
        default: "\\\(byte / 100)\(byte / 10 % 10)\(byte % 10)"
        }
    }

    /// The addresses in an answer, also those that a service is said to have (RFC 9460 §7.3); nil where it cannot be
    /// read to its end.
    static func addresses(in answer: [UInt8]) -> [IPAddress]? {
        guard answer.count >= 12 else { return nil }
        func word(_ at: Int) -> Int { Int(answer[at]) << 8 | Int(answer[at + 1]) }
        var place = 12
        for _ in 0..<word(4) {
            guard let end = skipName(answer, place), end + 4 <= answer.count else { return nil }
            place = end + 4
        }
        var addresses: [IPAddress] = []
        for _ in 0..<word(6) + word(8) + word(10) {
            guard let end = skipName(answer, place), end + 10 <= answer.count else { return nil }
            let next = end + 10 + word(end + 8)
            guard next <= answer.count else { return nil }
            let data = answer[(end + 10)..<next]
            switch UInt16(word(end)) {
            case Kind.a, Kind.aaaa: if let address = IPAddress(bytes: data) { addresses.append(address) }
            case Kind.svcb, Kind.https:
                guard let hints = hints(in: Array(data)) else { return nil }
                addresses += hints
            default: break
            }
            place = next
        }
        return addresses
    }

    /// `ipv4hint` and `ipv6hint` of a service: a priority, a name, and parameters.
    private static func hints(in data: [UInt8]) -> [IPAddress]? {
        func word(_ at: Int) -> Int { Int(data[at]) << 8 | Int(data[at + 1]) }
        guard data.count > 2, var place = skipName(data, 2), place <= data.count else { return nil }
        var addresses: [IPAddress] = []
        while place < data.count {
            guard place + 4 <= data.count, place + 4 + word(place + 2) <= data.count else { return nil }
            let (key, value) = (word(place), data[(place + 4)..<(place + 4 + word(place + 2))])
            place = value.endIndex
            guard key == 4 || key == 6 else { continue }
            let size = key == 4 ? 4 : 16
            guard value.count % size == 0 else { return nil }
            for start in stride(from: value.startIndex, to: value.endIndex, by: size) {
                if let address = IPAddress(bytes: value[start..<start + size]) { addresses.append(address) }
            }
        }
        return addresses
    }

    /// Where a name ends that is not looked at.
    private static func skipName(_ message: [UInt8], _ start: Int) -> Int? {
        var place = start
        while place < message.count, place - start < 256 {
            switch message[place] {
            case 0: return place + 1
            case 1...63: place += 1 + Int(message[place])
            case 0xC0...0xFF: return place + 2
            default: return nil
            }
        }
        return nil
    }
}

/// An answer that is made here.
struct DNSAnswer {
    enum Content {
        case address(IPAddress)
        case name(String)
        /// The name is there, but has nothing of the kind that was asked for; or the code says that it is not.
        case nothing
    }

    var code = DNSQuestion.Code.success
    var content = Content.nothing
    /// In seconds: how long it holds, also that there is nothing (RFC 2308 §5).
    var lifetime: UInt32 = 5

    /// What a datagram holds, whatever a client says: larger ones are fragmented, and lost (RFC 9715).
    static let datagramLimit = 1232

    /// The message. It fits into the smallest datagram, if the name is one that this node answers for.
    func bytes(to question: DNSQuestion) -> [UInt8] {
        var message = Self.head(
            id: question.id,
            flags: 0x8480 | (question.isRecursionDesired ? 0x0100 : 0) | code.rawValue & 15
        )
        message[5] = 1
        message += question.bytes
        func record(_ kind: UInt16, _ data: [UInt8]) -> [UInt8] {
            // The name is the question's (RFC 1035 §4.1.4).
            [0xC0, 12] + Self.word(kind) + [0, 1] + Self.word(UInt16(lifetime >> 16))
                + Self.word(UInt16(truncatingIfNeeded: lifetime)) + Self.word(UInt16(data.count)) + data
        }
        switch content {
        case .address(let address):
            message[7] = 1
            message += record(address.isIPv4 ? DNSQuestion.Kind.a : DNSQuestion.Kind.aaaa, address.bytes)
        case .name(let name):
            message[7] = 1
            message += record(DNSQuestion.Kind.ptr, Self.encode(name))
        case .nothing where code == .success || code == .noSuchName:
            // The name is its own zone here.
            // Says how long it holds: serial, refresh, retry, expire and minimum, of which only the last is read.
            message[9] = 1
            let times: [UInt32] = [1, 3600, 600, 86400, lifetime]
            let numbers = times.flatMap { time in (0..<4).map { UInt8(truncatingIfNeeded: time >> (24 - 8 * $0)) } }
            message += record(DNSQuestion.Kind.soa, [0xC0, 12, 0xC0, 12] + numbers)
        case .nothing: break
        }
        if question.datagramSize != nil {
            message[11] = 1
            message += Self.options(code, isDNSSECDesired: question.isDNSSECDesired)
        }
        return message
    }

    /// That there is more than a datagram holds.
    func truncated(to question: DNSQuestion) -> [UInt8] {
        var message = Self.head(
            id: question.id,
            flags: 0x8280 | (question.isRecursionDesired ? 0x0100 : 0) | code.rawValue & 15
        )
        message[5] = 1
        message += question.bytes
        if question.datagramSize != nil {
            message[11] = 1
            message += Self.options(code, isDNSSECDesired: question.isDNSSECDesired)
        }
        return message
    }

    /// For a question that could not be read: as much as is sure of.
    static func refusing(_ message: [UInt8], _ code: DNSQuestion.Code) -> [UInt8] {
        let flags = 0x8000 | UInt16(message[2] & 0x79) << 8 | code.rawValue & 15
        var answer = head(id: UInt16(message[0]) << 8 | UInt16(message[1]), flags: flags)
        if code == .badVersion {
            answer[11] = 1
            answer += options(code, isDNSSECDesired: false)
        }
        return answer
    }

    private static func options(_ code: DNSQuestion.Code, isDNSSECDesired: Bool) -> [UInt8] {
        [0] + word(DNSQuestion.Kind.opt) + word(UInt16(datagramLimit))
            + [UInt8(truncatingIfNeeded: code.rawValue >> 4), 0, isDNSSECDesired ? 0x80 : 0, 0, 0, 0]
    }

    private static func head(id: UInt16, flags: UInt16) -> [UInt8] {
        word(id) + word(flags) + [UInt8](repeating: 0, count: 8)
    }

    private static func word(_ value: UInt16) -> [UInt8] { [UInt8(value >> 8), UInt8(truncatingIfNeeded: value)] }

    private static func encode(_ name: String) -> [UInt8] {
        name.split(separator: ".").flatMap { [UInt8($0.utf8.count)] + Array($0.utf8) } + [0]
    }
}

/// JSON (RFC 8259) as security wants it read: one meaning or none. A name that is there twice, a lone surrogate, what
/// is no UTF-8, and anything behind the value are errors, since two readers would not agree on them.
package enum StrictJSON: Hashable, Sendable {
    case object([String: StrictJSON])
    case array([StrictJSON])
    case string(String)
    case number(Double)
    case bool(Bool)
    case null

    /// Why a text is not read.
    package struct Unreadable: Error, Hashable, CustomStringConvertible {
        /// In bytes, from 0.
        package let place: Int
        package let what: String
        package var description: String { "\(what) at byte \(place)" }

        package init(place: Int, what: String) { (self.place, self.what) = (place, what) }
    }

    /// - Parameters:
    ///   - bytes: The whole text; the caller bounds its size.
    ///   - depth: How deep arrays and objects may be in each other.
    package init(parsing bytes: some Collection<UInt8>, depth: Int = 16) throws(Unreadable) {
        var reader = JSONReader(bytes: Array(bytes))
        self = try reader.document(depth: depth)
    }

    package subscript(_ name: String) -> StrictJSON? {
        if case .object(let members) = self { members[name] } else { nil }
    }

    package var text: String? { if case .string(let text) = self { text } else { nil } }
}

private struct JSONReader {
    let bytes: [UInt8]
    var place = 0

    mutating func document(depth: Int) throws(StrictJSON.Unreadable) -> StrictJSON {
        let value = try value(depth: depth)
        skipSpace()
        guard place == bytes.count else { throw failure("something behind the value") }
        return value
    }

    private func failure(_ what: String) -> StrictJSON.Unreadable { .init(place: place, what: what) }

    private var next: UInt8? { place < bytes.count ? bytes[place] : nil }

    private mutating func skipSpace() {
        while let byte = next, byte == 0x20 || byte == 0x0A || byte == 0x0D || byte == 0x09 { place += 1 }
    }

    private mutating func take(_ character: Unicode.Scalar) -> Bool {
        guard next == UInt8(ascii: character) else { return false }
        place += 1
        return true
    }

    private mutating func value(depth: Int) throws(StrictJSON.Unreadable) -> StrictJSON {
        skipSpace()
        guard let first = next else { throw failure("no value") }
        switch first {
        case UInt8(ascii: "{"): return try object(depth: depth)
        case UInt8(ascii: "["): return try array(depth: depth)
        case UInt8(ascii: "\""): return .string(try string())
        case UInt8(ascii: "t"): return try word("true", .bool(true))
        case UInt8(ascii: "f"): return try word("false", .bool(false))
        case UInt8(ascii: "n"): return try word("null", .null)
        case UInt8(ascii: "-"), UInt8(ascii: "0")...UInt8(ascii: "9"): return try number()
        default: throw failure("no value")
        }
    }

    private mutating func word(_ text: String, _ value: StrictJSON) throws(StrictJSON.Unreadable) -> StrictJSON {
        guard bytes[place...].starts(with: text.utf8) else { throw failure("no value") }
        place += text.utf8.count
        return value
    }

    private mutating func object(depth: Int) throws(StrictJSON.Unreadable) -> StrictJSON {
        guard depth > 0 else { throw failure("too deep") }
        place += 1
        var members: [String: StrictJSON] = [:]
        skipSpace()
        if take("}") { return .object(members) }
        while true {
            skipSpace()
            guard next == UInt8(ascii: "\"") else { throw failure("no name") }
            let name = try string()
            skipSpace()
            guard take(":") else { throw failure("no ':'") }
            guard members.updateValue(try value(depth: depth - 1), forKey: name) == nil else {
                throw failure("a name that is there twice")
            }
            skipSpace()
            if take("}") { return .object(members) }
            guard take(",") else { throw failure("neither ',' nor '}'") }
        }
    }

    private mutating func array(depth: Int) throws(StrictJSON.Unreadable) -> StrictJSON {
        guard depth > 0 else { throw failure("too deep") }
        place += 1
        var elements: [StrictJSON] = []
        skipSpace()
        if take("]") { return .array(elements) }
        while true {
            elements.append(try value(depth: depth - 1))
            skipSpace()
            if take("]") { return .array(elements) }
            guard take(",") else { throw failure("neither ',' nor ']'") }
        }
    }

    private mutating func digits() -> Int {
        let start = place
        while let byte = next, (0x30...0x39).contains(byte) { place += 1 }
        return place - start
    }

    private mutating func number() throws(StrictJSON.Unreadable) -> StrictJSON {
        let start = place
        _ = take("-")
        let hasZero = next == UInt8(ascii: "0")
        let count = digits()
        guard count > 0, !hasZero || count == 1 else { throw failure("no number") }
        if take(".") { guard digits() > 0 else { throw failure("no number") } }
        if take("e") || take("E") {
            if !take("+") { _ = take("-") }
            guard digits() > 0 else { throw failure("no number") }
        }
        let text = String(decoding: bytes[start..<place], as: UTF8.self)
        guard text.utf8.count <= 64, let number = Double(text), number.isFinite else {
            throw failure("a number that is too large")
        }
        return .number(number)
    }

    private mutating func string() throws(StrictJSON.Unreadable) -> String {
        place += 1
        var text: [UInt8] = []
        while let byte = next {
            place += 1
            switch byte {
            case UInt8(ascii: "\""):
                guard let string = String(validating: text, as: UTF8.self) else {
                    throw failure("text that is no UTF-8")
                }
                return string
            case UInt8(ascii: "\\"): try escape(into: &text)
            case ..<0x20: throw failure("a control character in a text")
            default: text.append(byte)
            }
        }
        throw failure("a text without an end")
    }

    private mutating func escape(into text: inout [UInt8]) throws(StrictJSON.Unreadable) {
        guard let kind = next else { throw failure("a text without an end") }
        place += 1
        switch kind {
        case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): text.append(kind)
        case UInt8(ascii: "b"): text.append(0x08)
        case UInt8(ascii: "f"): text.append(0x0C)
        case UInt8(ascii: "n"): text.append(0x0A)
        case UInt8(ascii: "r"): text.append(0x0D)
        case UInt8(ascii: "t"): text.append(0x09)
        case UInt8(ascii: "u"):
            var code = try hexadecimal()
            if (0xD800...0xDBFF).contains(code) {
                guard take("\\"), take("u") else { throw failure("half of a character") }
                let low = try hexadecimal()
                guard (0xDC00...0xDFFF).contains(low) else { throw failure("half of a character") }
                code = 0x10000 + (code - 0xD800) << 10 + (low - 0xDC00)
            }
            guard let scalar = Unicode.Scalar(code) else { throw failure("half of a character") }
            text += Array(String(Character(scalar)).utf8)
        default: throw failure("an unknown escape")
        }
    }

    private mutating func hexadecimal() throws(StrictJSON.Unreadable) -> UInt32 {
        guard place + 4 <= bytes.count else { throw failure("a text without an end") }
        var code: UInt32 = 0
        for byte in bytes[place..<place + 4] {
            switch byte {
            case UInt8(ascii: "0")...UInt8(ascii: "9"): code = code << 4 | UInt32(byte - UInt8(ascii: "0"))
            case UInt8(ascii: "a")...UInt8(ascii: "f"): code = code << 4 | UInt32(byte - UInt8(ascii: "a") + 10)
            case UInt8(ascii: "A")...UInt8(ascii: "F"): code = code << 4 | UInt32(byte - UInt8(ascii: "A") + 10)
            default: throw failure("an escape that is not four hexadecimal digits")
            }
        }
        place += 4
        return code
    }
}

/// Writes JSON (RFC 8259) into bytes, in one pass and without a tree: for lines that many streams cause, and for pages.
///
/// Text may be a peer's: quotes, backslashes and whatever is not harmless in a log or on a terminal are escaped.
package struct JSONWriter: Sendable {
    package private(set) var bytes: [UInt8] = []
    private var needsComma = false

    package init() {}

    /// The text so far.
    package var text: String { String(decoding: bytes, as: UTF8.self) }

    package mutating func removeAll(keepingCapacity: Bool = true) {
        bytes.removeAll(keepingCapacity: keepingCapacity)
        needsComma = false
    }

    /// The bytes, which are the caller's from now on.
    package mutating func take() -> [UInt8] {
        let taken = bytes
        bytes = []
        needsComma = false
        return taken
    }

    // MARK: Structure

    package mutating func object(_ body: (inout JSONWriter) -> Void) {
        open(UInt8(ascii: "{"))
        body(&self)
        close(UInt8(ascii: "}"))
    }

    package mutating func array(_ body: (inout JSONWriter) -> Void) {
        open(UInt8(ascii: "["))
        body(&self)
        close(UInt8(ascii: "]"))
    }

    /// The name of a member whose value follows; it is written as it is.
    package mutating func key(_ name: StaticString) {
        comma()
        bytes.append(UInt8(ascii: "\""))
        bytes.append(contentsOf: UnsafeBufferPointer(start: name.utf8Start, count: name.utf8CodeUnitCount))
        bytes.append(UInt8(ascii: "\""))
        bytes.append(UInt8(ascii: ":"))
        needsComma = false
    }

    package mutating func key(_ name: String) {
        string(name)
        bytes.append(UInt8(ascii: ":"))
        needsComma = false
    }

    /// Ends a line of a file of lines.
    package mutating func endLine() {
        bytes.append(UInt8(ascii: "\n"))
        needsComma = false
    }

    /// Members of an object, each with a comma in front: to be put after others.
    package static func fragment(_ body: (inout JSONWriter) -> Void) -> [UInt8] {
        var json = JSONWriter()
        json.needsComma = true
        body(&json)
        return json.bytes
    }

    // MARK: Values

    package mutating func string(_ text: String) {
        quoted { $0.append(text) }
    }

    /// - Parameter prefix: Written as it is.
    package mutating func string(_ prefix: StaticString, _ text: String) {
        quoted { json in
            json.bytes.append(contentsOf: UnsafeBufferPointer(start: prefix.utf8Start, count: prefix.utf8CodeUnitCount))
            json.append(text)
        }
    }

    /// `HOST:PORT`, in brackets where the host is an address of IPv6.
    package mutating func string(host: String, port: UInt16) {
        quoted { json in
            let isBracketed = host.utf8.contains(UInt8(ascii: ":"))
            if isBracketed { json.bytes.append(UInt8(ascii: "[")) }
            json.append(host)
            if isBracketed { json.bytes.append(UInt8(ascii: "]")) }
            json.bytes.append(UInt8(ascii: ":"))
            json.digits(UInt64(port), isNegative: false)
        }
    }

    private mutating func quoted(_ body: (inout JSONWriter) -> Void) {
        comma()
        bytes.append(UInt8(ascii: "\""))
        body(&self)
        bytes.append(UInt8(ascii: "\""))
        needsComma = true
    }

    private mutating func append(_ text: String) {
        var text = text
        let isPlain = text.withUTF8 { utf8 in
            // Without a way out in between, so that the compiler looks at sixteen bytes at once.
            var found: UInt8 = 0
            for byte in utf8 {
                found |= (byte &- 0x20 >= 0x5F ? 1 : 0) | (byte == 0x22 ? 1 : 0) | (byte == 0x5C ? 1 : 0)
            }
            guard found == 0 else { return false }
            bytes.append(contentsOf: utf8)
            return true
        }
        if !isPlain { bytes.append(contentsOf: Self.escaped(text).utf8) }
    }

    package mutating func number(_ value: some BinaryInteger) {
        comma()
        digits(UInt64(truncatingIfNeeded: value.magnitude), isNegative: value < 0)
        needsComma = true
    }

    /// Seconds with six digits after the point, from nanoseconds.
    package mutating func seconds(nanoseconds: UInt64) {
        comma()
        digits(nanoseconds / 1_000_000_000, isNegative: false)
        bytes.append(UInt8(ascii: "."))
        var rest = nanoseconds % 1_000_000_000 / 1000
        var divisor: UInt64 = 100_000
        while divisor > 0 {
            bytes.append(0x30 + UInt8(truncatingIfNeeded: rest / divisor))
            rest %= divisor
            divisor /= 10
        }
        needsComma = true
    }

    package mutating func bool(_ value: Bool) {
        comma()
        bytes.append(contentsOf: (value ? "true" : "false").utf8)
        needsComma = true
    }

    package mutating func null() {
        comma()
        bytes.append(contentsOf: "null".utf8)
        needsComma = true
    }

    /// A value that is JSON already.
    package mutating func raw(_ json: [UInt8]) {
        comma()
        bytes.append(contentsOf: json)
        needsComma = true
    }

    // MARK: -

    private mutating func comma() { if needsComma { bytes.append(UInt8(ascii: ",")) } }

    private mutating func open(_ bracket: UInt8) {
        comma()
        bytes.append(bracket)
        needsComma = false
    }

    private mutating func close(_ bracket: UInt8) {
        bytes.append(bracket)
        needsComma = true
    }

    private mutating func digits(_ value: UInt64, isNegative: Bool) {
        if isNegative { bytes.append(UInt8(ascii: "-")) }
        if value < 10 { return bytes.append(0x30 + UInt8(truncatingIfNeeded: value)) }
        withUnsafeTemporaryAllocation(of: UInt8.self, capacity: 20) { buffer in
            var (rest, index) = (value, 20)
            repeat {
                index -= 1
                buffer[index] = 0x30 + UInt8(truncatingIfNeeded: rest % 10)
                rest /= 10
            } while rest > 0
            bytes.append(contentsOf: buffer[index...])
        }
    }

    private static func escaped(_ text: String) -> String {
        var result = ""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"": result += "\\\""
            case "\\": result += "\\\\"
            case "\n": result += "\\n"
            case "\t": result += "\\t"
            case "\r": result += "\\r"
            default: result.unicodeScalars.append(scalar)
            }
        }
        return Printable.escapeJSON(result)
    }
}

/// Parses a date and time of RFC 3339 §5.6, with `Z` or an offset; fractions of a second are dropped.
package func parseTime(_ text: String) throws(TimeFormatError) -> Int64 {
    let failure = TimeFormatError(
        "'\(text.prefix(40))' is not a date and time with time zone like 2026-12-31T00:00:00Z"
    )
    var rest = Array(text.utf8)[...]
    func number(_ digits: Int, _ range: ClosedRange<Int64>) throws(TimeFormatError) -> Int64 {
        let field = rest.prefix(digits)
        guard field.count == digits, field.allSatisfy({ (0x30...0x39).contains($0) }) else { throw failure }
        rest = rest.dropFirst(digits)
        let value = field.reduce(0) { $0 * 10 + Int64($1 - 0x30) }
        guard range.contains(value) else { throw failure }
        return value
    }
    func skip(_ allowed: String) throws(TimeFormatError) {
        guard let byte = rest.popFirst(), allowed.utf8.contains(byte) else { throw failure }
    }
    let year = try number(4, 1970...9999)
    try skip("-")
    let month = try number(2, 1...12)
    try skip("-")
    let isLeap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
    let day = try number(2, 1...(month == 2 ? (isLeap ? 29 : 28) : [4, 6, 9, 11].contains(month) ? 30 : 31))
    try skip("Tt ")
    let hour = try number(2, 0...23)
    try skip(":")
    let minute = try number(2, 0...59)
    try skip(":")
    let second = try number(2, 0...59)
    if rest.first == UInt8(ascii: ".") {
        let fraction = rest.dropFirst().prefix { (0x30...0x39).contains($0) }
        guard !fraction.isEmpty else { throw failure }
        rest = rest[fraction.endIndex...]
    }
    var offset: Int64 = 0
    switch rest.popFirst() {
    case UInt8(ascii: "Z"), UInt8(ascii: "z"): break
    case let sign? where sign == UInt8(ascii: "+") || sign == UInt8(ascii: "-"):
        let hours = try number(2, 0...23)
        try skip(":")
        offset = (hours * 60 + (try number(2, 0...59))) * (sign == UInt8(ascii: "+") ? 60 : -60)
    default: throw failure
    }
    guard rest.isEmpty else { throw failure }

    // Days since 1970-03-01 of the proleptic Gregorian calendar, with years that begin in March.
    let shifted = month > 2 ? year : year - 1
    let dayOfYear = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1
    let days = shifted * 365 + shifted / 4 - shifted / 100 + shifted / 400 + dayOfYear - 719_468
    return days * 86400 + hour * 3600 + minute * 60 + second - offset
}

/// Why a text is no date and time.
package struct TimeFormatError: Error, Hashable, Sendable, CustomStringConvertible {
    package let message: String

    package init(_ message: String) { self.message = message }

    package var description: String { message }
}

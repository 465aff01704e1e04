import Glibc

/// A length of time for people: "3 h 20 min". Two units at most, rounded down.
package func describe(seconds: Int64) -> String {
    let units: [(Int64, String)] = [(86400, "d"), (3600, "h"), (60, "min"), (1, "s")]
    var rest = max(0, seconds)
    var parts: [String] = []
    for (size, name) in units where parts.count < 2 {
        let count = rest / size
        rest -= count * size
        if count > 0 {
            parts.append("\(count) \(name)")
        } else if !parts.isEmpty {
            break
        }
    }
    return parts.isEmpty ? "0 s" : parts.joined(separator: " ")
}

/// A time in UTC, as RFC 3339 writes it.
///
/// - Parameter time: seconds since 1970.
package func describe(time: Int64) -> String {
    var (time, parts) = (time_t(time), tm())
    var text = [CChar](repeating: 0, count: 40)
    guard gmtime_r(&time, &parts) != nil else { return "an unknown time" }
    let count = strftime(&text, text.count, "%Y-%m-%dT%H:%M:%SZ", &parts)
    return String(decoding: text.prefix(count).map(UInt8.init(bitPattern:)), as: UTF8.self)
}

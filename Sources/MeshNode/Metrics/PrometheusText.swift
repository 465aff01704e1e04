/// Writes Prometheus' text format, version 0.0.4: families in the order of their first sample, each with its `HELP` and
/// `TYPE`.
struct PrometheusText {
    enum Kind: String, Sendable {
        case counter
        case gauge
        case histogram
    }

    typealias Labels = [(name: String, value: String)]

    private struct Family {
        let kind: Kind
        let help: String
        var lines = ""
    }

    static let contentType = "text/plain; version=0.0.4; charset=utf-8"

    private var order: [String] = []
    private var families: [String: Family] = [:]

    var text: String {
        order.reduce(into: "") { text, name in
            guard let family = families[name] else { return }
            text += "# HELP \(name) \(Self.escapeHelp(family.help))\n# TYPE \(name) \(family.kind.rawValue)\n"
            text += family.lines
        }
    }

    /// Declares a family, which may have no sample yet.
    mutating func declare(_ name: String, _ kind: Kind, help: String) {
        guard families[name] == nil else { return }
        order.append(name)
        families[name] = Family(kind: kind, help: help)
    }

    /// A sample of a family that was declared.
    mutating func add(_ name: String, _ labels: Labels, _ value: String) {
        families[name]?.lines += "\(name)\(Self.text(labels)) \(value)\n"
    }

    mutating func add(_ name: String, _ labels: Labels, _ value: some BinaryInteger) { add(name, labels, "\(value)") }

    mutating func add(_ name: String, _ value: some BinaryInteger) { add(name, [], "\(value)") }

    mutating func add(_ name: String, _ labels: Labels, _ value: Double) { add(name, labels, Self.text(value)) }

    mutating func add(_ name: String, _ value: Double) { add(name, [], Self.text(value)) }

    mutating func add(_ name: String, _ labels: Labels, _ histogram: Histogram) {
        var total: UInt64 = 0
        for (index, count) in histogram.counts.enumerated() {
            total &+= count
            let bound = index < Histogram.bounds.count ? Self.seconds(Histogram.bounds[index]) : "+Inf"
            families[name]?.lines += "\(name)_bucket\(Self.text(labels + [("le", bound)])) \(total)\n"
        }
        families[name]?.lines += "\(name)_sum\(Self.text(labels)) \(Self.seconds(histogram.sum))\n"
        families[name]?.lines += "\(name)_count\(Self.text(labels)) \(total)\n"
    }

    /// Nanoseconds as seconds, without rounding.
    static func seconds(_ nanoseconds: UInt64) -> String {
        let rest = "\(nanoseconds % 1_000_000_000)"
        var digits = String(repeating: "0", count: 9 - rest.count) + rest
        while digits.last == "0", digits.count > 1 { digits.removeLast() }
        return "\(nanoseconds / 1_000_000_000).\(digits)"
    }

    private static func text(_ value: Double) -> String {
        if value.isNaN { return "NaN" }
        if value.isInfinite { return value < 0 ? "-Inf" : "+Inf" }
        return "\(value)"
    }

    private static func text(_ labels: Labels) -> String {
        guard !labels.isEmpty else { return "" }
        return "{" + labels.map { "\($0.name)=\"\(escapeLabel($0.value))\"" }.joined(separator: ",") + "}"
    }

    private static func escapeLabel(_ text: String) -> String { escape(text, "\"\\\n") }

    private static func escapeHelp(_ text: String) -> String { escape(text, "\\\n") }

    /// By scalars: with a mark behind it, a quote is another character to Swift, and the end of the label elsewhere.
    private static func escape(_ text: String, _ special: String) -> String {
        var result = ""
        for scalar in text.unicodeScalars {
            if special.unicodeScalars.contains(scalar) { result += "\\" }
            if scalar == "\n" { result += "n" } else { result.unicodeScalars.append(scalar) }
        }
        return result
    }
}

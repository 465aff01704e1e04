import ArgumentParser

/// A length of time on the command line: `90s`, `90m`, `24h`, `7d`, or several together, `1d12h`.
struct DurationArgument: ExpressibleByArgument {
    let duration: Duration

    init(_ duration: Duration) { self.duration = duration }

    init?(argument: String) {
        let units: [Character: Int64] = ["s": 1, "m": 60, "h": 3600, "d": 86400]
        var total: Int64 = 0
        var digits = ""
        for character in argument {
            if character.isASCII, character.isNumber {
                digits.append(character)
                continue
            }
            // A number without its unit is refused: 24 could be hours or seconds.
            guard let unit = units[character], let count = Int64(digits) else { return nil }
            let (seconds, isTooLong) = count.multipliedReportingOverflow(by: unit)
            let (sum, isTooLongInAll) = total.addingReportingOverflow(seconds)
            guard !isTooLong, !isTooLongInAll else { return nil }
            total = sum
            digits = ""
        }
        // A hundred years: what is added to it stays a number.
        guard digits.isEmpty, total > 0, total <= 3_153_600_000 else { return nil }
        duration = .seconds(total)
    }

    var defaultValueDescription: String {
        var rest = duration.components.seconds
        var text = ""
        // Hours stay hours up to two days: "24h" is what people write.
        let units: [(Int64, String)] = rest >= 172_800 ? [(86400, "d"), (3600, "h")] : [(3600, "h")]
        for (size, name) in units + [(60, "m"), (1, "s")] where rest >= size {
            text += "\(rest / size)\(name)"
            rest %= size
        }
        return text
    }
}

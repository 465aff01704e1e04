/// Text from a peer, made harmless for a terminal, a log and an error message.
package enum Printable {
    /// Control characters (and what is no UTF-8) become `?`, runs of white space one space; the rest is cut after
    /// `limit` characters.
    package static func clean(_ text: some StringProtocol, limit: Int = 500) -> String {
        var result = ""
        var count = 0
        var pendingSpace = false
        for scalar in text.unicodeScalars {
            if scalar == " " || scalar == "\n" || scalar == "\t" || scalar == "\r" {
                pendingSpace = count > 0
                continue
            }
            guard count < limit else { return result + "…" }
            if pendingSpace {
                result.unicodeScalars.append(" ")
                count += 1
                pendingSpace = false
            }
            result.unicodeScalars.append(isHarmless(scalar) ? scalar : "?")
            count += 1
        }
        return result
    }

    /// One line: spaces stay as they are, everything else that is not harmless becomes `?`.
    package static func cleanLine(_ bytes: some Collection<UInt8>, limit: Int) -> String {
        var result = ""
        for scalar in String(decoding: bytes, as: UTF8.self).unicodeScalars.prefix(limit) {
            result.unicodeScalars.append(isHarmless(scalar) ? scalar : "?")
        }
        return result
    }

    /// ``clean(_:limit:)-(StringProtocol,_)`` for bytes of unknown encoding.
    package static func clean(_ bytes: some Collection<UInt8>, limit: Int = 500) -> String {
        clean(String(decoding: bytes, as: UTF8.self), limit: limit)
    }

    /// `text` for a terminal, whoever has written a part of it: line breaks and tabs stay, every other character that
    /// is not harmless becomes `?`. The place where text is printed calls it, for all that is printed there.
    package static func cleanText(_ text: String) -> String {
        // What nearly all of it is.
        if text.utf8.allSatisfy({ (0x20..<0x7F).contains($0) || $0 == 0x0A || $0 == 0x09 }) { return text }
        var result = ""
        result.reserveCapacity(text.utf8.count)
        for scalar in text.unicodeScalars {
            let stays = scalar == "\n" || scalar == "\t" || isHarmless(scalar)
            result.unicodeScalars.append(stays ? scalar : "?")
        }
        return result
    }

    /// `text` cut after `limit` characters, with everything outside printable ASCII escaped: what a peer or a user
    /// wrote, quoted in a message so that it can be seen as it was.
    package static func escape(_ text: some StringProtocol, limit: Int = 80) -> String {
        var result = ""
        for scalar in text.unicodeScalars.prefix(limit) {
            if (0x20...0x7e).contains(scalar.value) {
                result.unicodeScalars.append(scalar)
            } else {
                result += "\\u{\(String(scalar.value, radix: 16))}"
            }
        }
        return text.unicodeScalars.count > limit ? result + "…" : result
    }

    /// JSON on one line whose strings have the same value, with JSON's escape by number (RFC 8259 §7) for what is not
    /// harmless: outside its strings there is no such character.
    package static func escapeJSON(_ json: String) -> String {
        if json.utf8.allSatisfy({ (0x20..<0x7F).contains($0) }) { return json }
        var result = ""
        result.reserveCapacity(json.utf8.count)
        for scalar in json.unicodeScalars {
            guard !isHarmless(scalar) else {
                result.unicodeScalars.append(scalar)
                continue
            }
            for unit in String(scalar).utf16 {
                let digits = String(unit, radix: 16)
                result += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
            }
        }
        return result
    }

    private static func isHarmless(_ scalar: Unicode.Scalar) -> Bool {
        switch scalar.properties.generalCategory {
        // Format characters turn the direction of text around or hide parts of it.
        case .control, .format, .surrogate, .privateUse, .unassigned, .lineSeparator, .paragraphSeparator: false
        default: scalar != "\u{FFFD}"
        }
    }
}

/// `text` cut and with everything outside printable ASCII escaped, fit for a log line or an error message.
package func printable(_ text: some StringProtocol) -> String {
    var result = ""
    for scalar in text.unicodeScalars.prefix(80) {
        if (0x20...0x7e).contains(scalar.value) {
            result.unicodeScalars.append(scalar)
        } else {
            result += "\\u{\(String(scalar.value, radix: 16))}"
        }
    }
    return text.unicodeScalars.count > 80 ? result + "…" : result
}

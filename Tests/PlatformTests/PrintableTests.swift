import Testing

@testable import Platform

@Suite struct PrintableTests {
    /// What a terminal would obey is escaped, and a program reads the same.
    @Test func nothingOfJSONIsLost() {
        let text = "{\"a\":\"\u{7F}\u{9B}1m\u{202E}\u{E000}\u{F0000}\u{FFFD}é😀\\n\"}"
        let expected = "{\"a\":\"\\u007f\\u009b1m\\u202e\\ue000\\udb80\\udc00\\ufffdé😀\\n\"}"
        #expect(Printable.escapeJSON(text) == expected)
        #expect(Printable.escapeJSON("{\"a\":1}") == "{\"a\":1}")
    }
}

import Foundation
import Platform
import Testing

@Suite struct JSONWriterTests {
    private static func text(_ body: (inout JSONWriter) -> Void) -> String {
        var json = JSONWriter()
        body(&json)
        return json.text
    }

    @Test func valuesAndStructure() {
        let text = Self.text { json in
            json.object { json in
                json.key("a")
                json.array { json in
                    json.number(-12)
                    json.number(0)
                    json.number(UInt64.max)
                    json.number(Int64.min)
                    json.bool(true)
                    json.null()
                    json.raw(Array("{}".utf8))
                    json.array { _ in }
                }
                json.key("b")
                json.seconds(nanoseconds: 61_000_042_999)
                json.key("c" as String)
                json.object { _ in }
            }
            json.endLine()
            json.object {
                $0.key("d")
                $0.string("")
            }
        }
        #expect(
            text == """
                {"a":[-12,0,18446744073709551615,-9223372036854775808,true,null,{},[]],"b":61.000042,"c":{}}
                {"d":""}
                """
        )
    }

    @Test func textOfSeveralParts() {
        let text = Self.text { json in
            json.array { json in
                json.string("spiffe://", "a/b\"")
                json.string(host: "a.b", port: 80)
                json.string(host: "::1", port: 65535)
            }
        }
        #expect(text == #"["spiffe://a/b\"","a.b:80","[::1]:65535"]"#)
    }

    /// What a peer has written is one string, which reads back as it was, and does nothing to a terminal.
    @Test(arguments: [
        "plain", "", "\"", "\\", "a\"}\n{\"b\":1}", "\r\n\t\u{0}\u{1b}[31m\u{7f}", "é€😀", "\u{202e}txt.exe", "\u{2028}",
        "\u{feff}", "\u{fffd}",
    ])
    func textIsEscaped(_ text: String) throws {
        let json = Self.text { json in
            json.array { json in
                json.string(text)
                json.string(text)
            }
        }
        let value = try JSONSerialization.jsonObject(with: Data(json.utf8))
        #expect(value as? [String] == [text, text])
        #expect(json.unicodeScalars.allSatisfy { $0.value >= 0x20 && $0.value != 0x7F && $0 != "\u{202e}" })
    }
}

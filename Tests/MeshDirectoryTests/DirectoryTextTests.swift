import Testing

@testable import MeshDirectory

/// What commands write into a directory leaves what people wrote as it is.
@Suite struct DirectoryTextTests {
    private let person = """
        # What people wrote.
        endpoints:
        - match: "db.prod:5432"   # the database
          hbone: "10.0.0.7:15008"

        # Of the policies.
        policy:
        - {name: web, action: ALLOW, rules: [{}]}

        """
    private let devices = [
        DirectoryText.Device(name: "b", identity: "spiffe://mesh.example/ns/p/sa/b", hbone: ["10.0.0.2:15008"]),
        DirectoryText.Device(name: "a", identity: "spiffe://mesh.example/ns/p/sa/a", hbone: ["10.0.0.1:15008"]),
    ]
    private let list = Array("-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n".utf8)

    private func published(_ text: String, _ devices: [DirectoryText.Device], _ list: [UInt8]?) throws -> String {
        var text = DirectoryText(Array(text.utf8))
        try text.publish(devices, revocations: list)
        return text.text
    }

    @Test func sectionsAreReplacedAndTheRestStays() throws {
        let once = try published(person, devices, list)
        #expect(once.hasPrefix(person))
        #expect(
            once.contains(
                "- {name: \"a\", identity: \"spiffe://mesh.example/ns/p/sa/a\", hbone: [\"10.0.0.1:15008\"]}\n- {name: \"b\""
            )
        )
        #expect(once.contains("  -----BEGIN X509 CRL-----\n  AAAA\n"))
        #expect(try published(once, devices, list) == once)
        #expect(try published(once, [], nil) == person)
        // In the middle, with remarks of the next section.
        let middle = "devices:\n- {name: old}\n\n\(person)"
        #expect(try published(middle, [], nil) == "\n\(person)")
        #expect(try published("", devices, nil).hasPrefix("devices:"))
    }

    @Test func whatCannotBeToldApartIsRefused() throws {
        // A line of a block that looks like a section.
        let text = "devices:\n- {name: \"x\"}\nendpoints:\n- {match: \"policy:1\",\nhbone: \"a:1\"}\n"
        #expect(throws: Never.self) { try published(text, [], nil) }
        let flow = "endpoints: [{match: \"a:1\",\ndevices: b}]\n"
        #expect(throws: DirectoryError.self) { try published(flow, devices, nil) }
    }

    @Test func blankIsNothingButComments() {
        #expect(DirectoryText.isBlank(""))
        #expect(DirectoryText.isBlank("# a\n\n  # b\n"))
        #expect(!DirectoryText.isBlank("# a\nendpoints: []\n"))
        // Lines as editors of other systems end them, and as YAML 1.1 may.
        #expect(DirectoryText.isBlank("# a\r\n\r\n# b\r\n"))
        for end in ["\r\n", "\r", "\u{85}", "\u{2028}", "\u{2029}"] {
            #expect(!DirectoryText.isBlank("# a\(end)endpoints: []\(end)"), "\(end.unicodeScalars)")
        }
    }

    @Test func linesMayEndWithACarriageReturn() throws {
        let text = person.replacing("\n", with: "\r\n")
        let once = try published(text, devices, list)
        #expect(once.hasPrefix(text) && once.contains("\n- {name: \"a\""))
        #expect(try published(once, devices, list) == once)
        #expect(try published(once, [], nil) == text)
    }
}

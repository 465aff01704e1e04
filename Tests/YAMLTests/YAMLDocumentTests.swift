import Platform
import Testing

@testable import YAML

@Suite struct YAMLDocumentTests {
    /// The document as nested text, to compare whole shapes at once.
    private func shape(_ node: YAMLNode) -> String {
        switch node.content {
        case .scalar(let text, let isPlain): isPlain ? text : "\"\(text)\""
        case .sequence(let nodes): "[" + nodes.map(shape).joined(separator: ",") + "]"
        case .mapping(let entries): "{" + entries.map { "\($0.key):\(shape($0.value))" }.joined(separator: ",") + "}"
        }
    }

    @Test(arguments: [
        ("a: 1\nb: [x, 'y', \"z\"]\n", "{a:1,b:[x,\"y\",\"z\"]}"),
        ("- {a: {b: c}}\n- []\n- {}\n-\n", "[{a:{b:c}},[],{},]"),
        ("--- \na: >\n  folded\n  text\n...\n", "{a:\"folded text\n\"}"),
        ("%YAML 1.1\n---\na: NO # text, not false\n", "{a:NO}"),
        ("'quoted key': ~\n", "{quoted key:~}"),
        ("\u{feff}a: \u{e9}\u{1f600}\n", "{a:\u{e9}\u{1f600}}"),
    ])
    func composes(_ text: String, _ expected: String) throws {
        #expect(try shape(YAMLDocument.parse(text, file: "f")) == expected)
    }

    @Test func remembersPlaces() throws {
        let root = try YAMLDocument.parse("a:\n  - x\n  - {k: v}\n", file: "f")
        guard case .mapping(let entries) = root.content, case .sequence(let nodes) = entries[0].value.content,
            case .mapping(let inner) = nodes[1].content
        else {
            Issue.record("unexpected shape")
            return
        }
        #expect(entries[0].keyPosition == SourcePosition(line: 1, column: 1))
        #expect(nodes[0].position == SourcePosition(line: 2, column: 5))
        #expect(inner[0].keyPosition == SourcePosition(line: 3, column: 6))
        #expect(inner[0].value.position == SourcePosition(line: 3, column: 9))
    }

    @Test(arguments: [
        ("", "f: is empty"),
        ("# only a comment\n", "f: is empty"),
        ("a: 1\nb: 2\na: 3\n", "f:3:1: the key 'a' is given twice (first at line 1): remove one"),
        ("a: &x 1\n", "f:1:4: anchors"),
        ("a: *x\n", "f:1:4: aliases"),
        ("a: !!str 1\n", "f:1:4: tags"),
        ("a: !x [1]\n", "f:1:4: tags"),
        ("a: &x {b: 1}\n", "f:1:4: anchors"),
        ("a: 1\n---\nb: 2\n", "f:2:1: a second document"),
        ("? [a]\n: 1\n", "f:1:3: a key must be a plain word, not a list"),
        ("a: [1\nb: 2\n", "f:2:"),
        ("a: 1\n\tb: 2\n", "f:2:1: a tab is used for indentation at line 2, use spaces"),
        ("a:\n\tb: 2\n", "f:2:1: a tab is used for indentation at line 2, use spaces"),
        ("a:\n  b: 1\n  \tc: 2\n", "f:3:3: a tab is used for indentation at line 3, use spaces"),
        ("a:\n-\tb: 1\n\tc: 2\n", "f:2:2: a tab is used for indentation at line 2, use spaces"),
        (
            "a: 'x\n",
            "f:2:1: is not YAML: found unexpected end of stream while scanning a quoted scalar that starts at line 1"
        ),
        ("a: b: c\n", "f:1:5: is not YAML"),
        ("a: \u{1}\n", "f: is not YAML: control characters are not allowed at byte 3"),
    ])
    func refuses(_ text: String, _ expected: String) {
        let error = #expect(throws: ConfigurationError.self) { try YAMLDocument.parse(text, file: "f") }
        #expect(error?.description.hasPrefix(expected) == true, "\(error?.description ?? "")")
    }

    @Test func boundsDepthAndSize() throws {
        let depth = YAMLDocument.maximumDepth
        let nested = { (levels: Int) in String(repeating: "[", count: levels) + String(repeating: "]", count: levels) }
        _ = try YAMLDocument.parse(nested(depth), file: "f")
        #expect(throws: ConfigurationError.self) { try YAMLDocument.parse(nested(depth + 1), file: "f") }
        #expect(throws: ConfigurationError.self) { try YAMLDocument.parse(nested(1_000_000), file: "f") }
        let huge = String(repeating: "#", count: YAMLDocument.maximumBytes + 1)
        let error = #expect(throws: ConfigurationError.self) { try YAMLDocument.parse(huge, file: "f") }
        #expect(error?.description.contains("larger than 16 MiB") == true)
    }

    @Test func survivesMutations() throws {
        let seed = Array("a: [1, {b: 'c', d: \"e\"}]\nf:\n  - g: |\n      h\n  - &i *j\n? k\n: l\n".utf8)
        var random = SystemRandomNumberGenerator()
        for _ in 0..<3000 {
            var bytes = seed
            for _ in 0..<Int.random(in: 1...6, using: &random) {
                let index = Int.random(in: 0..<bytes.count, using: &random)
                if Bool.random(using: &random) {
                    bytes[index] = UInt8.random(in: 0...127, using: &random)
                } else {
                    bytes.insert(seed[Int.random(in: 0..<seed.count, using: &random)], at: index)
                }
            }
            _ = try? YAMLDocument.parse(String(decoding: bytes, as: UTF8.self), file: "f")
        }
    }

    @Test(arguments: [
        ("forward_to", "forwardTo"), ("ForwardTo", "forwardTo"), ("fowardTo", "forwardTo"), ("lables", "labels"),
        ("ednpoints", "endpoints"), ("listener", "listeners"), ("hboen", "hbone"),
    ])
    func suggests(_ word: String, _ expected: String) {
        #expect(
            nearest(to: word, in: ["identity", "listeners", "endpoints", "forwardTo", "labels", "hbone"]) == expected
        )
    }

    @Test func suggestsNothingFarFetched() {
        #expect(nearest(to: "colour", in: ["identity", "listeners", "tls", "via"]) == nil)
        #expect(nearest(to: "abc", in: ["via", "tls"]) == nil)
        #expect(nearest(to: String(repeating: "x", count: 100_000), in: ["via"]) == nil)
    }
}

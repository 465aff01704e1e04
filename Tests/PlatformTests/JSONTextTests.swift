import Foundation
import Testing

@testable import Platform

/// Foundation's coders are the other implementation that these are compared with.
@Suite struct JSONTextTests {
    struct Sample: Codable, Hashable {
        enum Kind: String, Codable { case first, second }
        struct Part: Codable, Hashable {
            var name: String
            var bytes: [UInt8]
        }
        var text: String
        var absent: Int?
        var present: Int64?
        var truth = true
        var share: Double
        var kind = Kind.second
        var parts: [Part]
        var named: [String: UInt16]
        var empty: [String] = []
        var nothing: [String: String] = [:]
        var grid: [[Int]] = [[1, -2], []]
        var gaps: [Int?] = [nil, 7]
    }

    static let samples = [
        Sample(text: "", share: 0, parts: [], named: [:]),
        Sample(
            text: "quotes \" back\\slash / tab\t line\n return\r bell\u{7} form\u{C} nul\u{0} é 日本 🦀 \u{2028} \u{7F}",
            present: 1 << 53,
            share: 0.1,
            parts: [.init(name: "a", bytes: [0, 255]), .init(name: "b", bytes: [])],
            named: ["z": 1, "a": 65_535, "é": 0, "a b": 2]
        ),
        Sample(text: "x", present: -(1 << 53), share: -1.5e300, parts: [], named: [:]),
    ]

    @Test(arguments: samples, [false, true])
    func bothReadWhatTheOtherWrites(_ sample: Sample, isIndented: Bool) throws {
        let ours = try JSONText.encode(sample, isIndented: isIndented)
        #expect(try JSONDecoder().decode(Sample.self, from: Data(ours)) == sample)
        #expect(try JSONText.decode(Sample.self, from: ours) == sample)
        let theirs = try JSONEncoder().encode(sample)
        #expect(try JSONText.decode(Sample.self, from: theirs) == sample)
    }

    @Test func theBytesAreThoseOfEarlierReleases() throws {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        var sample = Self.samples[1]
        sample.text = "quotes \" back\\slash / tab\t line\n return\r é 日本 🦀"
        #expect(try JSONText.encode(sample) == Array(try encoder.encode(sample)))
        struct Indented: Encodable { var b = [1, 2], a = ["x": "y"] }
        encoder.outputFormatting.insert(.prettyPrinted)
        #expect(try JSONText.encode(Indented(), isIndented: true) == Array(try encoder.encode(Indented())))
    }

    @Test(arguments: [
        (#"{"port": 65536}"#, "port"), (#"{"port": -1}"#, "port"), (#"{"port": 1.5}"#, "port"),
        (#"{"port": "1"}"#, "port"), (#"{"port": null}"#, "port"), (#"{"port": [1]}"#, "port"), ("{}", "port"),
        (#"{"port": 1"#, ""), (#"{"port": 1, "port": 1}"#, ""), ("[]", ""), ("", ""), (#"{"port": 1} {}"#, ""),
    ])
    func refusesWithThePlace(_ text: String, _ place: String) throws {
        struct Wanted: Codable { var port: UInt16 }
        do {
            _ = try JSONText.decode(Wanted.self, from: text.utf8)
            Issue.record("\(text) was read")
        } catch let error as UnreadableJSON {
            #expect((error.place ?? "") == place)
        }
    }

    /// Nothing of how Swift calls it.
    @Test(arguments: [
        (#"{"list": [{"port": 1}, {}]}"#, "'list[1].port' is missing"),
        (#"{"list": [{"port": null}]}"#, "'list[0].port' is null"),
        (#"{"list": [{"port": "1"}]}"#, "'list[0].port' is not a number"),
        (#"{"list": {}}"#, "'list' is not an array"), ("[]", "it is not an object"),
        (#"{"list": [{"port": 70000}]}"#, "'list[0].port' is a number that does not fit UInt16"),
    ])
    func saysWhatIsWrongInWords(_ text: String, _ words: String) {
        struct Wanted: Codable {
            struct Place: Codable { var port: UInt16 }
            var list: [Place]
        }
        let error = #expect(throws: UnreadableJSON.self) { _ = try JSONText.decode(Wanted.self, from: text.utf8) }
        #expect(error?.description == words)
    }

    @Test func wholeNumbersAreExactOrRefused() throws {
        #expect(try JSONText.decode([Int64].self, from: "[9007199254740992]".utf8) == [1 << 53])
        // Beyond it, two numbers of a text become one.
        #expect(throws: UnreadableJSON.self) { try JSONText.decode([Int64].self, from: "[9007199254740994]".utf8) }
        #expect(throws: EncodingError.self) { try JSONText.encode([Double.infinity]) }
        #expect(throws: EncodingError.self) { try JSONText.encode(["a": Double.nan]) }
    }

    @Test func depthIsBounded() {
        let deep = String(repeating: "[", count: 40) + String(repeating: "]", count: 40)
        #expect(throws: UnreadableJSON.self) { try JSONText.decode([Int].self, from: deep.utf8) }
    }
}

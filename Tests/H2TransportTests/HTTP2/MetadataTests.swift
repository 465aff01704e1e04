import Foundation
import TestPeers
import Testing

@testable import H2Transport

/// What goes with a request beside its bytes: read, bounded, and written again.
@Suite struct MetadataTests {
    private static func read(_ field: String?) -> [String] {
        Baggage(parsing: field).members.map {
            "\($0.key)=\($0.value)" + ($0.properties.isEmpty ? "" : ";\($0.properties)")
        }
    }

    @Test(arguments: [
        ("service.name=web", ["service.name=web"]),
        ("k8s.cluster.name=lab,k8s.namespace.name=prod", ["k8s.cluster.name=lab", "k8s.namespace.name=prod"]),
        // W3C Baggage §3.3: white space, properties, and percent-encoding.
        ("a = 1 ; owner=ops;tier , b=2", ["a=1;owner=ops;tier", "b=2"]),
        ("serverNode=DF%2028,isProduction=false", ["serverNode=DF 28", "isProduction=false"]),
        ("a=%E2%82%AC", ["a=€"]), ("a=%ff", ["a=\u{fffd}"]),
        // ztunnel encodes nothing.
        ("a=50%,b=%zz", ["a=50%", "b=%zz"]), ("a=b=c", ["a=b=c"]), ("a=", ["a="]),
        // The last one counts, as with ztunnel.
        ("a=1,b=2,a=3", ["a=3", "b=2"]),
        // What is not right takes nothing else with it.
        ("=1,key,\"q\"=1,a b=1,k=v v,k=é,k=\"v\",ok=1", ["ok=1"]), (",,a=1,,", ["a=1"]), ("", []),
    ])
    func baggageIsRead(_ field: String, _ members: [String]) {
        #expect(Self.read(field) == members)
    }

    @Test func baggageIsBounded() {
        #expect(Self.read(nil).isEmpty)
        let value = String(repeating: "v", count: Baggage.longest - 2)
        #expect(Self.read("a=\(value)").count == 1)
        #expect(Self.read("aa=\(value)").isEmpty)
        #expect(Self.read((0..<200).map { "k\($0)=1" }.joined(separator: ",")).count == Baggage.mostMembers)
    }

    @Test func baggageIsWritten() {
        var baggage = Baggage()
        baggage["service.name"] = "web"
        baggage["note"] = "a, b; 100 %\u{1}€"
        baggage["not a key"] = "x"
        baggage["gone"] = "x"
        baggage["gone"] = nil
        #expect(baggage.description == "service.name=web,note=a%2C%20b%3B%20100%20%25%01%E2%82%AC")
        #expect(Baggage(parsing: baggage.description) == baggage)
        #expect(baggage["note"] == "a, b; 100 %\u{1}€" && baggage["gone"] == nil)
    }

    @Test func fuzz() throws {
        var fuzzer = Fuzzer("baggage")
        let file = "\(TestTools.repository)/Tests/Peers/h2/baggage.corpus"
        let corpus = try String(contentsOfFile: file, encoding: .utf8).split(separator: "\n")
            .filter { !$0.hasPrefix("#") }.map { Array($0.utf8) }
        let dictionary = [",", ";", "=", "%", "%2C", "%00", " ", "\t", "\"", "k8s.", "\u{7f}"].map { Array($0.utf8) }
        var count = 0
        while fuzzer.goesOn(count, of: 30_000) {
            count += 1
            let field = String(decoding: fuzzer.mutate(corpus, dictionary: dictionary), as: UTF8.self)
            let baggage = Baggage(parsing: field)
            let text = baggage.description
            // It is a field of HTTP, one line of printable ASCII, and says the same again.
            if !text.utf8.allSatisfy({ (0x20...0x7e).contains($0) }) { Issue.record("\(field.debugDescription)") }
            if text.utf8.count <= Baggage.longest, Baggage(parsing: text) != baggage {
                Issue.record("\(field.debugDescription) is \(text)")
            }
            let keys = baggage.members.map(\.key)
            if Set(keys).count != keys.count || keys.count > Baggage.mostMembers { Issue.record("\(keys)") }
        }
    }

    @Test(arguments: [
        ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", true),
        ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-ff", true),
        // Longer only in a version that is not known yet.
        ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x", false),
        ("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x", true),
        ("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01x", false),
        ("ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", false),
        ("00-00000000000000000000000000000000-b7ad6b7169203331-01", false),
        ("00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", false),
        ("00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01", false),
        ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0", false),
        ("00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", false), ("", false), ("é", false),
    ])
    func traceParent(_ field: String, _ isRight: Bool) {
        let trace = TraceParent(parsing: field)
        #expect((trace != nil) == isRight)
        guard let trace else { return }
        #expect(trace.description == "00" + field.dropFirst(2).prefix(53))
        #expect(trace.traceID == "0af7651916cd43dd8448eb211c80319c")
    }

    /// Each place takes the digits of hexadecimal in lower case, and no other byte.
    @Test func traceParentDigits() {
        let field = Array("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".utf8)
        let digits = Array("0123456789abcdef".utf8)
        for place in Array(3..<35) + Array(36..<52) + [53, 54] {
            for byte in 0...127 as ClosedRange<UInt8> {
                var changed = field
                changed[place] = byte
                let text = String(decoding: changed, as: UTF8.self)
                let trace = TraceParent(parsing: text)
                #expect((trace != nil) == digits.contains(byte), "\(text.debugDescription)")
                if let trace { #expect(trace.description == text) }
            }
            for text in ["\u{80}", "é", "\u{ff}"] {
                var changed = field
                changed.replaceSubrange(place...place, with: Array(text.utf8))
                #expect(TraceParent(parsing: String(decoding: changed, as: UTF8.self)) == nil)
            }
        }
        for first in digits.indices.dropFirst() {
            let trace = TraceParent(
                parsing: "00-" + String(repeating: "f", count: 32) + "-0\(String(first, radix: 16))00000000000000-a1"
            )
            #expect(trace?.high == .max && trace?.low == .max && trace?.parent == UInt64(first) << 56)
            #expect(trace?.flags == 0xa1)
        }
    }

    @Test func aTraceBegins() throws {
        var identifiers = IdentifierGenerator()
        let traces = (0..<1000).map { _ in TraceParent(using: &identifiers) }
        #expect(Set(traces.map(\.traceID)).count == 1000)
        for trace in traces { #expect(TraceParent(parsing: trace.description) == trace) }
        #expect(TraceParent().description.hasSuffix("-00"))
        // What both ends of a connection make of a stream's number.
        let made = (0..<1000).map { TraceParent(of: 2 * $0 + 1, on: (7, .max - 100)) }
        #expect(Set(made.map(\.traceID)).count == 1000 && Set(made.map(\.parent)).count == 1000)
        #expect(
            made[3] == TraceParent(of: 7, on: (7, .max - 100)) && made[3] != TraceParent(of: 7, on: (8, .max - 100))
        )
        for trace in made { #expect(TraceParent(parsing: trace.description) == trace) }
    }
}

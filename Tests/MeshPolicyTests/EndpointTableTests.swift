import Platform
import TestPeers
import Testing

@testable import MeshPolicy

/// A table that is made after another one is the one that would be made from the beginning.
@Suite struct EndpointTableTests {
    private static func endpoint(_ match: String, facts: String = "", keepsPort: Bool = false) throws -> Endpoint {
        let match = try EndpointMatch(parsing: match)
        let peer = Peer(id: PeerID(match.description, facts: facts), candidates: [])
        var endpoint = Endpoint(match: match, way: .peer(peer))
        endpoint.keepsPort = keepsPort
        return endpoint
    }

    private static func block(_ matches: [String]) throws -> EndpointBlock {
        EndpointBlock(try matches.map { try endpoint($0) })
    }

    @Test func theFirstInOrderMatches() throws {
        let blocks = [
            try Self.block(["a.example:1", "*.example:2", "b.example"]),
            try Self.block(["a.example", "10.0.0.0/8", "[::1]:5"]),
        ]
        let table = EndpointTable(blocks)
        #expect(table.count == 6)
        let expected = [
            ("a.example:1", 0), ("a.example:2", 1), ("a.example:3", 3), ("b.example:2", 1), ("b.example:9", 2),
            ("10.1.2.3:4", 4), ("[::1]:5", 5),
        ]
        for (destination, number) in expected {
            let found = table.firstMatch(try Authority(parsing: destination))
            #expect(found?.number == number, "\(destination)")
        }
        #expect(table.firstMatch(try Authority(parsing: "c.example:9")) == nil)
        // The other order, made from the table.
        let turned = EndpointTable(blocks.reversed(), after: table)
        #expect(turned.firstMatch(try Authority(parsing: "a.example:1"))?.number == 0)
        #expect(turned.firstMatch(try Authority(parsing: "b.example:9"))?.number == 5)
    }

    @Test func whatIsThereTwiceIsNoticed() throws {
        let first = EndpointTable([try Self.block(["a:1", "b"])])
        #expect(first.repeated == nil)
        #expect(EndpointTable(first.blocks + [try Self.block(["a:2", "c"])], after: first).repeated == nil)
        let again = EndpointTable(first.blocks + [try Self.block(["c", "a:1"])], after: first)
        #expect(again.repeated?.description == "a:1")
        #expect(EndpointTable([try Self.block(["*.x", "y", "*.x"])]).repeated?.description == "*.x")
        #expect(EndpointTable(first.blocks + first.blocks).repeated != nil)
        // Once it is gone, nothing is left of it.
        #expect(EndpointTable(first.blocks, after: again).repeated == nil)
    }

    @Test func aPeerIsFoundByItsIdentifier() throws {
        let names = ["a", "a:1", "[::1]:5", "10.0.0.0/8", "*.x:7", "*"]
        let table = EndpointTable([try Self.block(names), EndpointBlock([try Self.endpoint("a:2", facts: "other")])])
        for (number, name) in names.enumerated() {
            #expect(table.endpoint(to: PeerID(name, facts: ""))?.number == number, "\(name)")
        }
        #expect(table.endpoint(to: PeerID("a:2", facts: "other"))?.number == 6)
        #expect(table.endpoint(to: PeerID("a:2", facts: "")) == nil)
        #expect(table.endpoint(to: PeerID("b", facts: "")) == nil)
    }

    /// Two of a block leave a host that another block has as well: that one stays.
    @Test func whatAnotherBlockHasStays() throws {
        let other = try Self.block(["dev7"])
        let table = EndpointTable([try Self.block(["dev7:80", "dev7:443"]), other])
        let changed = EndpointTable([try Self.block(["dev7:80", "dev7:444"]), other], after: table)
        let ssh = try Authority(parsing: "dev7:22")
        #expect(changed.firstMatch(ssh)?.number == 2)
        let alone = EndpointTable([other], after: changed)
        #expect(alone.firstMatch(ssh)?.number == 0)
        #expect(EndpointTable([other, try Self.block(["dev7"])], after: alone).repeated?.description == "dev7")
        #expect(EndpointTable([], after: alone).firstMatch(ssh) == nil)
    }

    /// Blocks come, go and move; each table is made after the one before.
    @Test func anySequenceOfChanges() throws {
        var fuzzer = Fuzzer("endpoint tables")
        // Few hosts with many ports: most blocks share hosts, and few endpoints are there twice.
        let hosts = (0..<4).map { "h\($0).example" } + ["*.example", "*.other", "10.0.0.0/8", "10.0.0.1", "*"]
        let destinations =
            try (0..<4).flatMap { host in (1...24).map { "h\(host).example:\($0)" } }.map {
                try Authority(parsing: $0)
            } + [try Authority(parsing: "10.0.0.1:1"), try Authority(parsing: "x.other:2")]
        var table = EndpointTable()
        var pool: [EndpointBlock] = []
        var done = 0
        while fuzzer.goesOn(done, of: 400) {
            done += 1
            if pool.count > 8 { pool.remove(at: fuzzer.below(pool.count)) }
            let matches = (0..<fuzzer.below(5)).map { _ in
                let port = fuzzer.below(24)
                return hosts[fuzzer.below(hosts.count)] + (port == 0 ? "" : ":\(port)")
            }
            pool.append(try Self.block(matches))
            var blocks = pool
            if fuzzer.below(3) == 0 { blocks.swapAt(fuzzer.below(blocks.count), fuzzer.below(blocks.count)) }
            if fuzzer.below(3) == 0 { blocks.remove(at: fuzzer.below(blocks.count)) }
            table = EndpointTable(blocks, after: table)
            let all = blocks.flatMap(\.endpoints)
            #expect(table.count == all.count)
            #expect((table.repeated == nil) == (Set(all.map(\.match)).count == all.count))
            for destination in destinations {
                let expected = all.firstIndex { $0.match.matches(destination) }
                #expect(table.firstMatch(destination)?.number == expected, "\(destination) in \(all.map(\.match))")
            }
        }
    }
}

import Platform
import Streams
import Testing

@testable import MeshPaths

/// Which of the addresses that a peer names are dialled, and in which order.
@Suite struct PeerAddressesTests {
    private func authority(_ text: String) throws -> Authority { try Authority(parsing: text) }
    private func address(_ text: String) throws -> IPAddress { try #require(IPAddress(text)) }

    private func taken(
        _ told: [String],
        recorded: [String] = ["203.0.113.7:15008"],
        own: [String] = ["198.51.100.2"]
    ) throws -> [String] {
        var addresses = PeerAddresses(try recorded.map(authority))
        let new = addresses.take(try told.map(authority), own: try own.map(address))
        #expect(new.count + addresses.declined.count == Set(told).subtracting(recorded).count)
        return new.map(\.description)
    }

    @Test func whatCanBeThePeersIsDialled() throws {
        let told = ["192.0.2.7:15008", "[2001:db8::7]:443", "home.example.org:25008"]
        #expect(try taken(told) == told)
    }

    @Test(
        "nobody is made to knock where only this side can",
        arguments: [
            "127.0.0.1:6379", "[::1]:15008", "169.254.169.254:80", "[fe80::7]:15008", "0.0.0.0:15008",
            "224.0.0.1:15008", "255.255.255.255:15008", "[ff02::1]:15008", "100.100.100.200:80",
            "[fd00:ec2::254]:80", "localhost:15008",
            "a.localhost:15008", "printer.local:631", "intranet:80", "198.51.100.2:22", "[64:ff9b::7f00:1]:80",
            "[64:ff9b::a00:7]:80", "10.0.0.7:15008", "192.168.1.1:80", "[fd12::7]:15008", "[2002:c0a8:101::1]:80",
        ]
    )
    func declined(place: String) throws {
        #expect(try taken([place]) == [])
    }

    @Test("a private address is dialled from that network, and where the peer is known by one")
    func privateNetworks() throws {
        #expect(try taken(["10.0.0.7:15008"], own: ["10.9.9.9"]) == ["10.0.0.7:15008"])
        #expect(try taken(["10.0.0.8:15008"], recorded: ["10.0.0.7:15008"]) == ["10.0.0.8:15008"])
        #expect(try taken(["192.168.1.7:15008"], own: ["10.9.9.9"]) == [])
        #expect(try taken(["[fd12::7]:15008"], own: ["fd99::1"]) == ["[fd12::7]:15008"])
        // A peer on this very machine.
        let here = ["127.0.0.1:7000", "198.51.100.2:7000"]
        #expect(try taken(here, recorded: ["127.0.0.1:15008"]) == here)
    }

    @Test("a name is asked about once more when it was looked up")
    func namesThatLeadInside() throws {
        var addresses = PeerAddresses([try authority("203.0.113.7:15008")])
        let name = try authority("home.example.org:25008")
        _ = addresses.take([name], own: [])
        #expect(addresses.objection(to: try address("192.0.2.7"), of: name) == nil)
        for inside in ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1"] {
            #expect(addresses.objection(to: try address(inside), of: name)?.code == .denied)
        }
        // What this side has on record is its own affair.
        let recorded = try authority("203.0.113.7:15008")
        #expect(addresses.objection(to: try address("127.0.0.1"), of: recorded) == nil)
    }

    @Test func noMoreThanSixteen() throws {
        let told = (0..<32).map { "192.0.2.\($0):15008" }
        var addresses = PeerAddresses([try authority("203.0.113.7:15008")])
        let first = addresses.take(try told.map(authority), own: [])
        #expect(first.count == PeerAddresses.mostTold)
        // Another offer takes the place of the one before.
        let new = addresses.take([try authority("192.0.2.3:15008"), try authority("192.0.2.40:15008")], own: [])
        #expect(new.map(\.description) == ["192.0.2.40:15008"])
        #expect(addresses.dialled.count == 3)
    }

    @Test("what has answered is dialled first, what has failed last")
    func order() throws {
        let all = try ["203.0.113.7:1", "192.0.2.8:1", "192.0.2.9:1"].map(authority)
        var addresses = PeerAddresses([all[0]])
        _ = addresses.take([all[1], all[2]], own: [])
        #expect(addresses.dialled == all)
        addresses.failed(all[0], "refused")
        #expect(addresses.dialled == [all[1], all[2], all[0]])
        addresses.answered(all[2], after: .milliseconds(3))
        #expect(addresses.dialled == [all[2], all[1], all[0]])
        // What became of it is known still after another offer.
        _ = addresses.take([all[2]], own: [])
        #expect(addresses.dialled == [all[2], all[0]])
    }

    @Test("another machine at an address that was only named says nothing of the peer")
    func strangers() throws {
        let (recorded, told) = (try authority("203.0.113.7:1"), try authority("192.0.2.8:1"))
        var addresses = PeerAddresses([recorded])
        _ = addresses.take([told], own: [])
        // That is what refuses a peer.
        var isAnother = addresses.wasAnother(recorded)
        #expect(!isAnother)
        isAnother = addresses.wasAnother(told)
        #expect(isAnother)
        #expect(addresses.dialled == [recorded])
        // Nor by saying so again.
        let new = addresses.take([told], own: [])
        #expect(new == [])
        // Who has proven there once who it is, and does not now, is refused as anywhere.
        let proven = try authority("192.0.2.9:1")
        _ = addresses.take([proven], own: [])
        addresses.answered(proven, after: .milliseconds(3))
        addresses.failed(proven, "refused")
        isAnother = addresses.wasAnother(proven)
        #expect(!isAnother)
    }
}

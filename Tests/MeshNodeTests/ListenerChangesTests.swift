import Platform
import Streams
import Testing

@testable import MeshNode

/// What a changed list of listeners means for the sockets.
@Suite struct ListenerChangesTests {
    private typealias Listener = NodeConfiguration.Listener

    private func listener(
        _ name: String,
        _ bind: String,
        _ kind: NodeConfiguration.ListenerProtocol = .hbone
    ) throws -> Listener {
        Listener(name: name, bind: try NodeConfiguration.BindAddress(parsing: bind), protocol: kind)
    }

    private func changes(_ current: [Listener], _ wanted: [Listener], ports: [UInt16] = []) -> ListenerChanges {
        ListenerChanges(
            from: current.enumerated().map { index, listener in
                let address = listener.bind.socketAddress
                return (listener, address.port == 0 ? address.withPort(ports[index]) : address)
            },
            to: wanted
        )
    }

    @Test func whatHasNotChangedIsKept() throws {
        let (a, b) = (try listener("a", "127.0.0.1:1"), try listener("b", "[::1]:0", .tcp))
        let same = changes([a, b], [b, a], ports: [0, 40000])
        #expect(same.sources == [.kept(1), .kept(0)])
        #expect(same.isNothing)
    }

    @Test func aPortThatTheKernelChoseStaysWithItsName() throws {
        let old = try listener("a", "127.0.0.1:0")
        var new = old
        new.users = "users"
        #expect(changes([old], [new], ports: [40000]).sources == [.handedOver(0)])
        // Another name asks for another port; one that names the port goes on with it.
        #expect(changes([old], [try listener("b", "127.0.0.1:0")], ports: [40000]).sources == [.bound])
        #expect(changes([old], [try listener("b", "127.0.0.1:40000")], ports: [40000]).sources == [.handedOver(0)])
    }

    @Test func addressesAreHandedOnAndNamesMayCross() throws {
        let current = [try listener("a", "127.0.0.1:1"), try listener("b", "127.0.0.1:2")]
        let crossed = changes(current, [try listener("b", "127.0.0.1:1"), try listener("a", "127.0.0.1:2")])
        #expect(crossed.sources == [.handedOver(0), .handedOver(1)])
        #expect(crossed.removed == [])
        let moved = changes(current, [try listener("a", "127.0.0.1:3"), try listener("c", "127.0.0.1:2", .sni)])
        #expect(moved.sources == [.bound, .handedOver(1)])
        #expect(moved.removed == [0])
        // An overlap is no hand-over.
        let wider = changes(current, [try listener("a", "0.0.0.0:1")])
        #expect(wider.sources == [.bound])
        #expect(wider.removed == [0, 1])
    }

    /// One with a twin leaves IPv4 alone, which is settled when a socket is bound.
    @Test func aSocketForBothFamiliesIsNotHandedToOneForIPv6() throws {
        let both = try listener("a", "[::]:1", .hbone)
        let one = try listener("a", "[::]:1", .transparent)
        #expect(changes([both], [one]).sources == [.bound])
        #expect(changes([one], [both]).sources == [.bound])
    }
}

package import Platform
import Streams

/// Addresses that stand for names of the mesh: a program that looks a name up gets one, connects to it, and the
/// transparent listener that gets the connection knows the name again. Nothing else uses them.
///
/// The address is made of the name, so that it is the same after a restart, and on each machine; of two names that
/// would have the same one, the second takes the next that is free. Safe to use from any thread.
package final class VirtualNames: Sendable {
    private struct State {
        var blocks: VirtualBlocks
        var numbers: [String: UInt64] = [:]
        var names: [UInt64: String] = [:]
    }

    private let state: Lock<State>

    package init(_ blocks: VirtualBlocks = .standard) { state = Lock(State(blocks: blocks)) }

    /// Gives these names their addresses before others: they are always the same then. With other blocks all addresses
    /// are forgotten.
    package func prepare(_ names: [String], in blocks: VirtualBlocks) {
        state.withLock { state in
            if state.blocks != blocks { state = State(blocks: blocks) }
            for name in names.sorted() { _ = Self.number(of: name, &state) }
        }
    }

    /// The addresses of a name; nil when there are too many names.
    package func addresses(of name: String) -> (ipv4: IPAddress, ipv6: IPAddress)? {
        state.withLock { state in
            guard let number = Self.number(of: name, &state) else { return nil }
            let (v4, v6) = (state.blocks.ipv4.network, state.blocks.ipv6.network)
            return (
                IPAddress(high: 0, low: v4.low + number, isIPv4: true),
                IPAddress(high: v6.high, low: v6.low + number, isIPv4: false)
            )
        }
    }

    package enum Meaning: Hashable, Sendable {
        /// An address like any other.
        case address
        case name(String)
        /// One of ours, and nobody has been given it.
        case unknown
    }

    package func meaning(of address: IPAddress) -> Meaning {
        state.withLock { state in
            let block = address.isIPv4 ? state.blocks.ipv4 : state.blocks.ipv6
            guard block.contains(address) else { return .address }
            return state.names[address.low &- block.network.low].map { .name($0) } ?? .unknown
        }
    }

    private static func number(of name: String, _ state: inout State) -> UInt64? {
        if let number = state.numbers[name] { return number }
        let places = state.blocks.places
        guard UInt64(state.numbers.count) < max(1, places / 4) else { return nil }
        // FNV-1a, 64 bits.
        var hash: UInt64 = 0xcbf2_9ce4_8422_2325
        for byte in name.utf8 { hash = (hash ^ UInt64(byte)) &* 0x0000_0100_0000_01b3 }
        // Its high bits are the better mixed ones.
        var place = (hash >> 20 ^ hash) % places
        while state.names[place + 1] != nil { place = (place + 1) % places }
        state.numbers[name] = place + 1
        state.names[place + 1] = name
        return place + 1
    }
}

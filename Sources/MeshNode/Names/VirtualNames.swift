package import Platform
import Streams

/// Addresses that stand for names of the mesh: a program that looks a name up gets one, connects to it, and the
/// transparent listener that gets the connection knows the name again. Nothing else uses them.
///
/// The address is made of the name, so that it is the same after a restart, and on each machine; of two names that
/// would have the same one, the second takes the next that is free. When all are given out, the name that nobody has
/// used for longest gives its own up, if it has not been used for ten minutes and no answer still holds: whoever asks
/// for many names takes nobody's for good. Safe to use from any thread.
package final class VirtualNames: Sendable {
    private struct Place {
        var name: String
        /// In seconds, when the name was asked for or connected to.
        var used: UInt64
    }

    private struct State {
        var blocks: VirtualBlocks
        var numbers: [String: UInt64] = [:]
        var places: [UInt64: Place] = [:]
        /// Names that endpoints write out: theirs are never given to others.
        var fixed: Set<String> = []
        /// How long a name keeps its address unused.
        var idle: UInt64 = VirtualNames.shortestIdle
        /// Places whose names were idle when they were last looked for, the first one last; some may have been used
        /// since.
        var idlePlaces: [(number: UInt64, used: UInt64)] = []
        /// Before that none can be idle.
        var nextSearch: UInt64 = 0
    }

    private static let shortestIdle: UInt64 = 600

    private let state: Lock<State>
    private let now: @Sendable () -> UInt64

    /// - Parameters:
    ///   - blocks: Where the addresses lie.
    ///   - now: Seconds, of a clock that is never set.
    package init(_ blocks: VirtualBlocks = .standard, now: (@Sendable () -> UInt64)? = nil) {
        state = Lock(State(blocks: blocks))
        self.now = now ?? { EventLoop.monotonicTime() / 1_000_000_000 }
    }

    /// Gives these names their addresses before others: they are always the same then, and stay. With other blocks all
    /// addresses are forgotten.
    ///
    /// - Parameter lifetime: Of answers, in seconds.
    package func prepare(_ names: [String], in blocks: VirtualBlocks, lifetime: UInt32 = 5) {
        let now = now()
        state.withLock { state in
            if state.blocks != blocks { state = State(blocks: blocks) }
            state.fixed = Set(names)
            state.idle = max(Self.shortestIdle, UInt64(lifetime))
            (state.idlePlaces, state.nextSearch) = ([], 0)
            // Of a directory that has changed, nearly all are known.
            var unknown: [String] = []
            for name in names {
                if let number = state.numbers[name] { state.places[number]?.used = now } else { unknown.append(name) }
            }
            for name in unknown.sorted() { _ = Self.number(of: name, &state, now) }
        }
    }

    /// The addresses of a name; nil when there are too many names.
    package func addresses(of name: String) -> (ipv4: IPAddress, ipv6: IPAddress)? {
        let now = now()
        return state.withLock { state in
            guard let number = Self.number(of: name, &state, now) else { return nil }
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
        let now = now()
        return state.withLock { state in
            let block = address.isIPv4 ? state.blocks.ipv4 : state.blocks.ipv6
            guard block.contains(address) else { return .address }
            let number = address.low &- block.network.low
            guard let place = state.places[number] else { return .unknown }
            state.places[number]?.used = now
            return .name(place.name)
        }
    }

    private static func number(of name: String, _ state: inout State, _ now: UInt64) -> UInt64? {
        if let number = state.numbers[name] {
            state.places[number]?.used = now
            return number
        }
        let places = state.blocks.places
        if UInt64(state.numbers.count) >= max(1, places / 4) {
            guard giveUpOne(&state, now) else { return nil }
        }
        // FNV-1a, 64 bits.
        var hash: UInt64 = 0xcbf2_9ce4_8422_2325
        for byte in name.utf8 { hash = (hash ^ UInt64(byte)) &* 0x0000_0100_0000_01b3 }
        // Its high bits are the better mixed ones.
        var place = (hash >> 20 ^ hash) % places
        while state.places[place + 1] != nil { place = (place + 1) % places }
        state.numbers[name] = place + 1
        state.places[place + 1] = Place(name: name, used: now)
        return place + 1
    }

    /// Frees the place of the name that was used least recently, if it is idle. All idle ones are looked for at once,
    /// and no sooner than there can be more: a flood of names costs no search each.
    private static func giveUpOne(_ state: inout State, _ now: UInt64) -> Bool {
        if state.idlePlaces.isEmpty, now >= state.nextSearch {
            var earliest = now
            for (number, place) in state.places where !state.fixed.contains(place.name) {
                earliest = min(earliest, place.used)
                if place.used + state.idle <= now { state.idlePlaces.append((number, place.used)) }
            }
            state.idlePlaces.sort { ($0.used, $0.number) > ($1.used, $1.number) }
            state.nextSearch = state.idlePlaces.isEmpty ? earliest + state.idle : now + 1
        }
        while let oldest = state.idlePlaces.popLast() {
            guard let place = state.places[oldest.number], place.used == oldest.used else { continue }
            state.places[oldest.number] = nil
            state.numbers[place.name] = nil
            return true
        }
        return false
    }
}

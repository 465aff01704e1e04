import Platform

/// Endpoints that stand one after the other, with what routing has made of them. An object: in a list that changes
/// elsewhere, it stays, and nothing of it is made again.
package final class EndpointBlock: Hashable, Sendable {
    package let endpoints: [Endpoint]
    /// What people call each of them.
    let descriptions: [String]
    /// What each of them names.
    let named: [NamedHost]
    /// Those whose hosts are patterns.
    fileprivate let patterns: [Int32]
    /// Those that the default policy may cover at the node that they lead to.
    fileprivate let services: [Int32]

    /// - Parameter ownNames: Normalised host names that mean this machine.
    package init(_ endpoints: [Endpoint], ownNames: Set<String> = ["localhost"]) {
        self.endpoints = endpoints
        named = endpoints.map { NamedHost($0, ownNames: ownNames) }
        descriptions = endpoints.map { endpoint in
            "endpoint '\(endpoint.match)'"
                + (endpoint.source.map { " (\($0))" } ?? endpoint.position.map { " (line \($0.line))" } ?? "")
        }
        func places(_ isMeant: (Endpoint) -> Bool) -> [Int32] {
            endpoints.indices.filter { isMeant(endpoints[$0]) }.map(Int32.init)
        }
        patterns = places { if case .exact = $0.match.host { false } else { true } }
        services = places { !$0.keepsPort }
    }

    package static func == (left: EndpointBlock, right: EndpointBlock) -> Bool { left === right }

    package func hash(into hasher: inout Hasher) { hasher.combine(ObjectIdentifier(self)) }
}

/// Blocks of endpoints in their order, by the hosts that they match: a table for the exact ones, a list for the
/// patterns.
///
/// Made after another one, it costs what the blocks cost that are not in both, and a copy of the table.
package struct EndpointTable: Hashable, Sendable {
    /// Where an endpoint is, for as long as its block is there.
    fileprivate struct Place: Hashable {
        /// Of the block; never its place in the list, which moves when others come and go.
        var slot: Int32
        var index: Int32
    }

    package private(set) var blocks: [EndpointBlock] = []
    /// How many endpoints there are.
    package private(set) var count = 0
    /// What is there twice, if anything is.
    package private(set) var repeated: EndpointMatch?
    private var slots: [EndpointBlock?] = []
    /// For each slot: how many blocks, and how many endpoints, come before it.
    private var ranks: [(block: Int, endpoint: Int)] = []
    /// The first of each host.
    private var exact: [String: Place] = [:]
    /// All of a host that has several, in order.
    private var several: [String: [Place]] = [:]
    private var patterns: [Place] = []

    package init() {}

    package init(_ blocks: [EndpointBlock], after previous: EndpointTable = EndpointTable()) {
        // What is there twice can only be told by who looks at all of it.
        if previous.repeated == nil { self = previous }
        let wanted = Set(blocks)
        var known: [EndpointBlock: Int32] = [:]
        for case (let slot, let block?) in slots.enumerated() {
            if wanted.contains(block) { known[block] = Int32(slot) } else { remove(block, Int32(slot)) }
        }
        if wanted.count != blocks.count { repeated = blocks.first { !$0.endpoints.isEmpty }?.endpoints[0].match }
        var added: [(EndpointBlock, Int32)] = []
        var free = slots.indices.filter { slots[$0] == nil }
        self.blocks = blocks
        count = 0
        for (rank, block) in blocks.enumerated() {
            var slot = known[block]
            if slot == nil {
                let place = free.popLast() ?? slots.count
                if place == slots.count {
                    slots.append(nil)
                    ranks.append((0, 0))
                }
                slots[place] = block
                known[block] = Int32(place)
                added.append((block, Int32(place)))
                slot = Int32(place)
            }
            if let slot { ranks[Int(slot)] = (rank, count) }
            count += block.endpoints.count
        }
        if previous.blocks.isEmpty { exact.reserveCapacity(count) }
        var shared: Set<String> = []
        for (block, slot) in added { insert(block, slot, &shared) }
        for host in shared where repeated == nil { repeated = repetition(in: several[host] ?? []) }
        for (host, places) in several {
            let sorted = places.sorted(by: isBefore)
            several[host] = sorted
            exact[host] = sorted.first
        }
        patterns = blocks.flatMap { block in
            let slot = known[block] ?? 0
            return block.patterns.map { Place(slot: slot, index: $0) }
        }
        if added.contains(where: { !$0.0.patterns.isEmpty }) {
            repeated = repeated ?? repetition(in: patterns)
        }
    }

    /// - Parameter shared: Gets the hosts that others have as well.
    private mutating func insert(_ block: EndpointBlock, _ slot: Int32, _ shared: inout Set<String>) {
        for (index, endpoint) in block.endpoints.enumerated() {
            guard case .exact(let host) = endpoint.match.host else { continue }
            let place = Place(slot: slot, index: Int32(index))
            guard let first = exact[host] else {
                exact[host] = place
                continue
            }
            several[host, default: [first]].append(place)
            shared.insert(host)
        }
    }

    private mutating func remove(_ block: EndpointBlock, _ slot: Int32) {
        // Once for each host, whatever the number of its ports.
        var hosts: Set<String> = []
        for endpoint in block.endpoints {
            guard case .exact(let host) = endpoint.match.host, hosts.insert(host).inserted else { continue }
            let rest = several[host]?.filter { $0.slot != slot } ?? []
            several[host] = rest.count > 1 ? rest : nil
            exact[host] = rest.first
        }
        slots[Int(slot)] = nil
    }

    /// The first that is there twice.
    private func repetition(in places: [Place]) -> EndpointMatch? {
        var seen: Set<EndpointMatch> = []
        return places.lazy.map { self[$0].match }.first { !seen.insert($0).inserted }
    }

    private subscript(place: Place) -> Endpoint {
        // A place is one of a block that is there.
        slots[Int(place.slot)]!.endpoints[Int(place.index)]
    }

    private func isBefore(_ left: Place, _ right: Place) -> Bool {
        let (first, second) = (ranks[Int(left.slot)].block, ranks[Int(right.slot)].block)
        return first == second ? left.index < right.index : first < second
    }

    package static func == (left: EndpointTable, right: EndpointTable) -> Bool { left.blocks == right.blocks }

    package func hash(into hasher: inout Hasher) { hasher.combine(blocks) }

    // MARK: Looking up

    /// An endpoint that was found.
    struct Found {
        let block: EndpointBlock
        /// In its block.
        let index: Int
        /// In the whole table.
        let number: Int

        var endpoint: Endpoint { block.endpoints[index] }
        var description: String { block.descriptions[index] }
        var named: NamedHost { block.named[index] }
    }

    /// The first, in the order of the list, that matches.
    func firstMatch(_ destination: Authority) -> Found? {
        var byName = exact[destination.host]
        if let first = byName {
            if !several.isEmpty, let all = several[destination.host] {
                byName = all.first { self[$0].match.matches(destination) }
            } else if !self[first].match.matches(destination) {
                byName = nil
            }
        }
        var place = byName
        if !patterns.isEmpty, let byPattern = patterns.first(where: { self[$0].match.matches(destination) }) {
            place = byName.map { isBefore(byPattern, $0) ? byPattern : $0 } ?? byPattern
        }
        guard let place, let block = slots[Int(place.slot)] else { return nil }
        let index = Int(place.index)
        return Found(block: block, index: index, number: ranks[Int(place.slot)].endpoint + index)
    }

    /// Whether any endpoint that is for this host, or for a pattern that it fits, is as `isMeant` says.
    package func contains(for host: String, where isMeant: (Endpoint) -> Bool) -> Bool {
        if let first = exact[host], (several[host] ?? [first]).contains(where: { isMeant(self[$0]) }) { return true }
        return patterns.contains { isMeant(self[$0]) }
    }

    /// What leads to `peer`, and its place in the list; nil: nothing.
    package func endpoint(to peer: PeerID) -> (endpoint: Endpoint, number: Int)? {
        func leads(_ place: Place) -> Bool {
            if case .peer(let other) = self[place].way { other.id == peer } else { false }
        }
        // It is named by what it matches: a device by its host.
        var place = place(of: peer.name, where: leads)
        if place == nil, let match = try? EndpointMatch(parsing: peer.name), case .exact(let host) = match.host {
            place = self.place(of: host, where: leads)
        }
        guard let place = place ?? patterns.first(where: leads) else { return nil }
        return (self[place], ranks[Int(place.slot)].endpoint + Int(place.index))
    }

    private func place(of host: String, where isMeant: (Place) -> Bool) -> Place? {
        guard let first = exact[host] else { return nil }
        if !several.isEmpty, let all = several[host] { return all.first(where: isMeant) }
        return isMeant(first) ? first : nil
    }

    /// All of them, in order.
    package var endpoints: some Sequence<Endpoint> { blocks.lazy.flatMap(\.endpoints) }

    /// Those that have a port of their own.
    var services: some Sequence<Endpoint> {
        blocks.lazy.flatMap { block in block.services.lazy.map { block.endpoints[Int($0)] } }
    }
}

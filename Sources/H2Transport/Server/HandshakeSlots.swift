import Platform

/// The places for connections that have not proved an identity yet: who has one, and who gives it up. A value without
/// I/O.
///
/// A source is who one must take for one party: an IPv4 address in its /24, an IPv6 /64 in its /48, since whoever has
/// one address of such a block mostly has all of it. When there is no place left, the oldest handshake of the largest
/// source goes: an honest one takes milliseconds, and a flood crowds out itself.
struct HandshakeSlots {
    struct ID: Hashable, Sendable { fileprivate let number: Int }

    private struct Source: Hashable {
        let narrow: CIDR?
        let wide: CIDR?

        /// - Parameter address: nil: what has none is one source.
        init(_ address: IPAddress?) {
            narrow = address.flatMap { CIDR($0, prefixLength: $0.isIPv4 ? 32 : 64) }
            wide = address.flatMap { CIDR($0, prefixLength: $0.isIPv4 ? 24 : 48) }
        }
    }

    private struct Entry {
        let id: ID
        let source: Source
    }

    enum Admission: Hashable {
        case free(ID)
        /// In the place of the oldest one of the same source, which has as many as one may have.
        case insteadOfOwn(ID, ID)
        /// In the place of another's, since there is none left.
        case insteadOfLargest(ID, ID)

        var id: ID {
            switch self {
            case .free(let id), .insteadOfOwn(let id, _), .insteadOfLargest(let id, _): id
            }
        }
    }

    /// In the order of their arrival.
    private var entries: [Entry] = []
    private var narrow: [CIDR?: Int] = [:]
    private var wide: [CIDR?: Int] = [:]
    private var last = 0

    var count: Int { entries.count }

    /// Gives the next connection a place.
    ///
    /// - Parameters:
    ///   - address: Where it comes from; what has no address is not limited as one source.
    ///   - limit: Places in all, at least one.
    ///   - limitEach: Places for one source.
    mutating func admit(_ address: IPAddress?, limit: Int, limitEach: Int) -> Admission {
        let source = Source(address)
        last += 1
        let id = ID(number: last)
        let isOwnFull = source.narrow != nil && narrow[source.narrow, default: 0] >= max(1, limitEach)
        let gone: ID? =
            if isOwnFull {
                remove { $0.narrow == source.narrow }
            } else if entries.count >= max(1, limit) {
                removeOfLargest()
            } else {
                nil
            }
        entries.append(Entry(id: id, source: source))
        narrow[source.narrow, default: 0] += 1
        wide[source.wide, default: 0] += 1
        guard let gone else { return .free(id) }
        return isOwnFull ? .insteadOfOwn(id, gone) : .insteadOfLargest(id, gone)
    }

    /// The handshake is over. Returns false for one that has lost its place before.
    mutating func leave(_ id: ID) -> Bool {
        guard let index = entries.firstIndex(where: { $0.id == id }) else { return false }
        remove(at: index)
        return true
    }

    private mutating func removeOfLargest() -> ID? {
        // Ties are broken by age.
        let most = wide.values.max() ?? 0
        let candidates = entries.filter { wide[$0.source.wide] == most }
        guard let block = candidates.first?.source.wide else { return remove { $0.wide == nil } }
        let counts = narrow
        let sources = entries.filter { $0.source.wide == block }
        let largest = sources.map { counts[$0.source.narrow] ?? 0 }.max() ?? 0
        return remove { $0.wide == block && counts[$0.narrow] == largest }
    }

    /// The oldest one of such a source.
    private mutating func remove(where matches: (Source) -> Bool) -> ID? {
        guard let index = entries.firstIndex(where: { matches($0.source) }) else { return nil }
        let id = entries[index].id
        remove(at: index)
        return id
    }

    private mutating func remove(at index: Int) {
        let source = entries.remove(at: index).source
        Self.lower(&narrow, source.narrow)
        Self.lower(&wide, source.wide)
    }

    private static func lower(_ counts: inout [CIDR?: Int], _ key: CIDR?) {
        guard let count = counts[key] else { return }
        counts[key] = count > 1 ? count - 1 : nil
    }
}

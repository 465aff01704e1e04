/// The streams of a connection by their identifiers. A dictionary would hash each identifier as if somebody could
/// choose it so that many fall into one place; here a multiplier that nobody outside knows is enough.
///
/// Open addressing: a stream stands at the place that its identifier says, or in the next one that is free.
struct StreamTable<Stream: AnyObject> {
    private struct Entry {
        /// 0 where the place is free: that is the connection, and no stream.
        var id: Int32 = 0
        var stream: Stream?
    }

    private var entries: ContiguousArray<Entry> = []
    private(set) var count = 0
    private let multiplier = UInt32.random(in: 0...(.max)) | 1

    private static var smallest: Int { 16 }

    var isEmpty: Bool { count == 0 }

    /// In no order. A copy: whoever walks through them may change the table.
    var values: [Stream] { entries.compactMap(\.stream) }
    var keys: [Int32] { entries.compactMap { $0.id == 0 ? nil : $0.id } }

    /// Setting nil removes the stream.
    subscript(id: Int32) -> Stream? {
        get { place(of: id).flatMap { entries[$0].stream } }
        set {
            guard let newValue else {
                removeValue(forKey: id)
                return
            }
            insert(newValue, id)
        }
    }

    @discardableResult
    mutating func removeValue(forKey id: Int32) -> Stream? {
        guard let place = place(of: id) else { return nil }
        let stream = entries[place].stream
        close(place)
        count -= 1
        // What a crowd has taken up is not kept.
        if count == 0, entries.count > 1024 { entries = [] }
        return stream
    }

    private mutating func insert(_ stream: Stream, _ id: Int32) {
        precondition(id != 0, "no stream has the identifier 0")
        if let place = place(of: id) {
            entries[place].stream = stream
            return
        }
        if (count + 1) * 3 > entries.count * 2 { grow() }
        put(Entry(id: id, stream: stream))
        count += 1
    }

    private mutating func put(_ entry: Entry) {
        var place = home(of: entry.id)
        while entries[place].id != 0 { place = next(place) }
        entries[place] = entry
    }

    private mutating func grow() {
        let before = entries
        entries = ContiguousArray(repeating: Entry(), count: max(Self.smallest, before.count * 2))
        for entry in before where entry.id != 0 { put(entry) }
    }

    /// Frees a place. Those behind it move up, or they would not be found any more.
    private mutating func close(_ start: Int) {
        let (multiplier, mask) = (multiplier, entries.count - 1)
        // In memory: there, what is moved is not counted.
        entries.withUnsafeMutableBufferPointer { entries in
            var (hole, place) = (start, (start + 1) & mask)
            while entries[place].id != 0 {
                // Whether the hole lies on the way from where the entry belongs to where it stands.
                let home = Self.home(of: entries[place].id, multiplier, count: mask + 1)
                if (place &- home) & mask >= (place &- hole) & mask {
                    entries.swapAt(hole, place)
                    hole = place
                }
                place = (place + 1) & mask
            }
            entries[hole] = Entry()
        }
    }

    // MARK: Places

    private func place(of id: Int32) -> Int? {
        guard count > 0 else { return nil }
        var place = home(of: id)
        while entries[place].id != id {
            guard entries[place].id != 0 else { return nil }
            place = next(place)
        }
        return place
    }

    /// The upper bits of the product depend on all bits of the identifier.
    private func home(of id: Int32) -> Int { Self.home(of: id, multiplier, count: entries.count) }

    private static func home(of id: Int32, _ multiplier: UInt32, count: Int) -> Int {
        let product = UInt32(bitPattern: id) &* multiplier
        return Int(truncatingIfNeeded: (UInt64(product) &* UInt64(count)) >> 32)
    }

    private func next(_ place: Int) -> Int { (place + 1) & (entries.count - 1) }
}

/// The few fields of an ELF program that say what it needs to run (System V ABI, chapters 4 and 5). Offsets are
/// checked: a damaged file has no fields, it does not trap.
struct ELFImage {
    let machine: UInt16
    private let bytes: [UInt8]
    private var segments: [Segment] = []
    /// Offsets of names in the dynamic string table, by tag.
    private var dynamic: [(tag: UInt64, value: UInt64)] = []

    private struct Segment {
        var type: UInt32
        var offset: Int
        var address: UInt64
        var size: Int
    }

    private enum Tag {
        static let needed: UInt64 = 1
        static let stringTable: UInt64 = 5
        static let stringTableSize: UInt64 = 10
        static let rpath: UInt64 = 15
        static let runpath: UInt64 = 29
    }

    /// nil for what is no 64-bit little-endian ELF program.
    init?(_ bytes: [UInt8]) {
        self.bytes = bytes
        // Magic, 64-bit, little endian.
        guard bytes.count >= 64, bytes[0..<6].elementsEqual([0x7F, 0x45, 0x4C, 0x46, 2, 1]) else { return nil }
        machine = UInt16(truncatingIfNeeded: Self.integer(bytes, 18, 2) ?? 0)
        guard let table = Self.integer(bytes, 32, 8), let size = Self.integer(bytes, 54, 2),
            let count = Self.integer(bytes, 56, 2), size >= 56, table <= bytes.count
        else { return nil }
        for index in 0..<Int(count) {
            let start = Int(table) + index * Int(size)
            guard let type = Self.integer(bytes, start, 4), let offset = Self.integer(bytes, start + 8, 8),
                let address = Self.integer(bytes, start + 16, 8), let length = Self.integer(bytes, start + 32, 8),
                offset <= bytes.count, length <= bytes.count
            else { return nil }
            segments.append(Segment(type: UInt32(type), offset: Int(offset), address: address, size: Int(length)))
        }
        // 2: PT_DYNAMIC.
        if let segment = segments.first(where: { $0.type == 2 }) {
            for start in stride(from: segment.offset, to: segment.offset + segment.size, by: 16) {
                guard let tag = Self.integer(bytes, start, 8), let value = Self.integer(bytes, start + 8, 8), tag != 0
                else {
                    break
                }
                dynamic.append((tag, value))
            }
        }
    }

    /// The dynamic loader (PT_INTERP); nil for a static program.
    var interpreter: String? {
        segments.first { $0.type == 3 }.flatMap { text(at: $0.offset) }
    }

    var neededLibraries: [String] { names(Tag.needed) }

    /// DT_RUNPATH, or the older DT_RPATH.
    var libraryPaths: [String] {
        let paths = names(Tag.runpath)
        return (paths.isEmpty ? names(Tag.rpath) : paths).flatMap { $0.split(separator: ":").map(String.init) }
    }

    /// The highest of the version names that begin with `prefix` in the dynamic string table: `2.34` for `GLIBC_2.34`.
    func newestVersion(prefix: String) -> String? {
        guard let table = stringTable else { return nil }
        let prefix = Array(prefix.utf8)
        var newest: [Int] = []
        guard let size = dynamic.first(where: { $0.tag == Tag.stringTableSize })?.value, size <= UInt64(bytes.count)
        else { return nil }
        let end = min(bytes.count, table + Int(size))
        var position = table
        while position < end {
            let name = bytes[position..<end].prefix { $0 != 0 }
            if name.starts(with: prefix) {
                let parts = String(decoding: name.dropFirst(prefix.count), as: UTF8.self).split(separator: ".").map {
                    Int($0)
                }
                let numbers = parts.compactMap { $0 }
                if numbers.count == parts.count, newest.lexicographicallyPrecedes(numbers) { newest = numbers }
            }
            position += name.count + 1
        }
        return newest.isEmpty ? nil : newest.map(String.init).joined(separator: ".")
    }

    private var stringTable: Int? {
        guard let address = dynamic.first(where: { $0.tag == Tag.stringTable })?.value else { return nil }
        // 1: PT_LOAD; the table's address lies in one of them.
        for segment in segments where segment.type == 1 {
            guard address >= segment.address, address - segment.address < UInt64(segment.size) else { continue }
            return segment.offset + Int(address - segment.address)
        }
        return nil
    }

    private func names(_ tag: UInt64) -> [String] {
        guard let table = stringTable else { return [] }
        return dynamic.compactMap { entry in
            guard entry.tag == tag, entry.value < UInt64(bytes.count) else { return nil }
            return text(at: table + Int(entry.value))
        }
    }

    private func text(at offset: Int) -> String? {
        guard offset >= 0, offset < bytes.count else { return nil }
        return String(decoding: bytes[offset...].prefix(4096).prefix { $0 != 0 }, as: UTF8.self)
    }

    private static func integer(_ bytes: [UInt8], _ offset: Int, _ size: Int) -> UInt64? {
        guard offset >= 0, offset <= bytes.count - size else { return nil }
        return bytes[offset..<offset + size].reversed().reduce(0) { $0 << 8 | UInt64($1) }
    }
}

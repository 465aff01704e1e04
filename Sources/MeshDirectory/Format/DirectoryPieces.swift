/// Cuts the content of a directory into pieces that stay the same where the text does: a change of one entry changes
/// one piece, or two, wherever in the text it is. So that is all that a store has to carry to everybody.
///
/// A piece ends with a line whose hash says so, which depends on that line alone: lines that come or go elsewhere move
/// no other cut. Some 16 KiB on average: with fewer, the manifest becomes long; with more, a change does.
enum DirectoryPieces {
    static let minimum = 2 << 10
    static let maximum = 64 << 10
    /// One line of so many ends a piece, where lines are those of devices.
    private static let lines: UInt64 = 96

    static func cut(_ content: [UInt8]) -> [ArraySlice<UInt8>] {
        var pieces: [ArraySlice<UInt8>] = []
        var start = 0
        var hash: UInt64 = 0xCBF2_9CE4_8422_2325
        for (place, byte) in content.enumerated() {
            hash = (hash ^ UInt64(byte)) &* 0x100_0000_01B3
            let length = place + 1 - start
            let isLine = byte == UInt8(ascii: "\n")
            if isLine && length >= minimum && (hash >> 17) % lines == 0 || length == maximum {
                pieces.append(content[start...place])
                start = place + 1
            }
            if isLine { hash = 0xCBF2_9CE4_8422_2325 }
        }
        if start < content.count { pieces.append(content[start...]) }
        return pieces
    }
}

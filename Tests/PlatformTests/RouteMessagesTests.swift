import Testing

@testable import Platform

/// What is read of the kernel's messages, and what of bytes that are none.
@Suite struct RouteMessagesTests {
    /// One message: its header, and `body`.
    private func message(_ type: UInt16, _ body: [UInt8], length: UInt32? = nil) -> [UInt8] {
        let size = length ?? UInt32(16 + body.count)
        var bytes = withUnsafeBytes(of: size) { Array($0) } + withUnsafeBytes(of: type) { Array($0) }
        bytes += [UInt8](repeating: 0, count: 10) + body
        while bytes.count % 4 != 0 { bytes.append(0) }
        return bytes
    }

    private func read(_ bytes: [UInt8]) -> RouteMessages { bytes.withUnsafeBytes { RouteMessages(reading: $0) } }

    private func address(flags: UInt8) -> [UInt8] { [2, 24, flags, 0, 1, 0, 0, 0] }

    private func route(table: UInt8 = 254, kind: UInt8 = 1, flags: UInt32 = 0) -> [UInt8] {
        [2, 24, 0, 0, table, 0, 0, kind] + withUnsafeBytes(of: flags) { Array($0) }
    }

    @Test func changesAreTold() {
        #expect(read(message(16, [UInt8](repeating: 0, count: 16))) == .addresses)
        #expect(read(message(17, [UInt8](repeating: 0, count: 16))) == .addresses)
        #expect(read(message(20, address(flags: 0))) == [.addresses, .usable])
        #expect(read(message(20, address(flags: 0x40))) == [.addresses, .tentative])
        #expect(read(message(21, address(flags: 0))) == .addresses)
        #expect(read(message(24, route())) == .routes)
        #expect(read(message(25, route())) == .routes)
    }

    @Test func severalInOneDatagram() {
        let bytes = message(21, address(flags: 0) + [1]) + message(3, []) + message(24, route())
        #expect(read(bytes) == [.addresses, .routes])
    }

    @Test("local routes, clones, multicast, and what nobody has asked for say nothing")
    func noise() {
        #expect(read(message(24, route(table: 255))) == [])
        #expect(read(message(24, route(flags: 0x200))) == [])
        #expect(read(message(24, route(kind: 5))) == [])
        #expect(read(message(28, [UInt8](repeating: 0, count: 12))) == [])
        #expect(read([]) == [])
    }

    @Test("a length that lies is no reason to read beyond the bytes, and none to overlook a change")
    func lengthsThatLie() {
        for length in [0, 1, 15, 25, 1 << 16, UInt32.max] as [UInt32] {
            #expect(read(message(20, address(flags: 0), length: length)) == .unreadable, "length \(length)")
        }
        // What stands before is read.
        #expect(read(message(24, route()) + message(20, [], length: 4)) == [.routes, .unreadable])
        for (type, size) in [(16, 15), (20, 7), (21, 0), (24, 11)] as [(UInt16, Int)] {
            #expect(read(message(type, [UInt8](repeating: 0, count: size))) == .unreadable)
        }
    }

    @Test func everyBeginningOfAMessageIsRead() {
        let whole = message(20, address(flags: 0)) + message(24, route())
        for count in 1..<whole.count where count != 24 {
            #expect(read(Array(whole[..<count])).contains(.unreadable), "\(count) bytes")
        }
    }

    @Test("random bytes end the reading, whatever they are")
    func randomBytes() {
        var generator = SystemRandomNumberGenerator()
        for _ in 0..<20_000 {
            var bytes = (0..<Int.random(in: 0...96)).map { _ in UInt8.random(in: 0...255, using: &generator) }
            // Often enough a length that could be right.
            if bytes.count > 8, Bool.random() {
                bytes[0] = UInt8(bytes.count)
                (bytes[1], bytes[2], bytes[3]) = (0, 0, 0)
                (bytes[4], bytes[5]) = (UInt8.random(in: 14...28), 0)
            }
            _ = read(bytes)
        }
    }
}

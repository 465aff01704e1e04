import Platform
import Testing

@testable import H2Transport

@Suite("the places for handshakes") struct HandshakeSlotsTests {
    /// As a server has them, with who sits where.
    private final class Room {
        private var slots = HandshakeSlots()
        private let limit: Int
        private let limitEach: Int
        private(set) var present: [HandshakeSlots.ID: String] = [:]

        init(limit: Int = 256, limitEach: Int = 64) {
            self.limit = limit
            self.limitEach = limitEach
        }

        @discardableResult
        func enter(_ address: String) -> HandshakeSlots.ID {
            let admission = slots.admit(IPAddress(address), limit: limit, limitEach: limitEach)
            switch admission {
            case .free: break
            case .insteadOfOwn(_, let gone), .insteadOfLargest(_, let gone): present[gone] = nil
            }
            present[admission.id] = address
            return admission.id
        }

        func leave(_ id: HandshakeSlots.ID) -> Bool {
            present[id] = nil
            return slots.leave(id)
        }

        func count(_ prefix: String) -> Int { present.values.filter { $0.hasPrefix(prefix) }.count }
    }

    @Test("a /48 full of addresses crowds out itself, and nobody else")
    func oneBlock() {
        let room = Room()
        let honest = room.enter("198.51.100.7")
        for number in 0..<5000 { room.enter("2001:db8:1:\(String(number % 4096, radix: 16))::\(number % 9 + 1)") }
        #expect(room.present.count == 256)
        #expect(room.present[honest] != nil)
        // And whoever comes now gets in, and stays while the flood goes on.
        let late = room.enter("2001:db8:2::1")
        for number in 0..<5000 { room.enter("2001:db8:1:\(String(number % 4096, radix: 16))::2") }
        #expect(room.present[late] != nil)
        #expect(room.leave(late))
        #expect(room.leave(honest))
    }

    @Test("four IPv4 addresses leave room for the fifth")
    func fourAddresses() {
        let room = Room()
        for _ in 0..<100 {
            for address in ["192.0.2.1", "192.0.2.77", "198.51.100.3", "203.0.113.9"] { room.enter(address) }
        }
        #expect(room.present.count == 256)
        let honest = room.enter("10.1.2.3")
        for _ in 0..<300 {
            for address in ["192.0.2.1", "192.0.2.77", "198.51.100.3", "203.0.113.9"] { room.enter(address) }
        }
        #expect(room.present[honest] != nil)
        // The two of one /24 had twice of what the others have, and gave.
        #expect(room.present.count == 256)
    }

    @Test("one source has its limit, a /64 as one; its oldest goes")
    func oneSource() {
        let room = Room(limitEach: 3)
        let first = room.enter("2001:db8::1")
        let others = (2...4).map { room.enter("2001:db8::\($0)") }
        #expect(room.present[first] == nil)
        #expect(others.allSatisfy { room.present[$0] != nil })
        #expect(!room.leave(first))
        #expect(room.leave(others[0]))
        #expect(room.count("2001:db8:") == 2)
    }

    @Test("without a largest source the oldest goes")
    func equals() {
        let room = Room(limit: 3)
        let ids = ["10.0.1.1", "10.0.2.1", "10.0.3.1", "10.0.4.1"].map { room.enter($0) }
        #expect(room.present[ids[0]] == nil)
        #expect(room.present.count == 3)
    }
}

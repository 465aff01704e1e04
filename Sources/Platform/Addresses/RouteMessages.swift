/// What the kernel tells of interfaces, addresses and routes (rtnetlink(7)), read no further than is needed to know
/// whether it is time to look at them again. A value without I/O; whatever the bytes are, it reads none beyond them.
package struct RouteMessages: OptionSet, Sendable {
    package let rawValue: UInt8
    package init(rawValue: UInt8) { self.rawValue = rawValue }

    /// An interface or an address is, or may be, another than before: who needs to know compares them.
    package static let addresses = RouteMessages(rawValue: 1)
    /// A way to somewhere has come or gone.
    package static let routes = RouteMessages(rawValue: 2)
    /// An address that could not be used yet is there: it is no other than before, and can be used now.
    package static let usable = RouteMessages(rawValue: 4)
    /// An address is there that cannot be used yet (IFA_F_TENTATIVE, RFC 4862 §5.4).
    package static let tentative = RouteMessages(rawValue: 8)
    /// Bytes that are no message, or the rest of one: nobody knows what was said.
    package static let unreadable = RouteMessages(rawValue: 16)

    private static let headerSize = 16

    /// - Parameter bytes: One datagram.
    package init(reading bytes: UnsafeRawBufferPointer) {
        var found: RouteMessages = []
        var rest = bytes[...]
        while !rest.isEmpty {
            let message = UnsafeRawBufferPointer(rebasing: rest)
            guard message.count >= Self.headerSize else {
                found.insert(.unreadable)
                break
            }
            let length = Int(message.loadUnaligned(fromByteOffset: 0, as: UInt32.self))
            guard length >= Self.headerSize, length <= message.count else {
                found.insert(.unreadable)
                break
            }
            let type = message.loadUnaligned(fromByteOffset: 4, as: UInt16.self)
            let body = UnsafeRawBufferPointer(rebasing: message[Self.headerSize..<length])
            found.formUnion(Self.meaning(of: type, body))
            // NLMSG_ALIGN: the last one may lack the padding.
            rest = rest.dropFirst((length + 3) & ~3)
        }
        self = found
    }

    private static func meaning(of type: UInt16, _ body: UnsafeRawBufferPointer) -> RouteMessages {
        switch type {
        // RTM_NEWLINK, RTM_DELLINK: struct ifinfomsg.
        case 16, 17: return body.count >= 16 ? .addresses : .unreadable
        // RTM_NEWADDR, RTM_DELADDR: struct ifaddrmsg.
        case 20, 21:
            guard body.count >= 8 else { return .unreadable }
            guard type == 20 else { return .addresses }
            return body[2] & 0x40 != 0 ? [.addresses, .tentative] : [.addresses, .usable]
        // RTM_NEWROUTE, RTM_DELROUTE: struct rtmsg.
        case 24, 25:
            guard body.count >= 12 else { return .unreadable }
            let flags = body.loadUnaligned(fromByteOffset: 8, as: UInt32.self)
            // Routes to the machine's own addresses (RT_TABLE_LOCAL) come and go with these, and clones (RTM_F_CLONED)
            // with the packets. RTN_UNICAST is what leads anywhere.
            return body[4] == 255 || flags & 0x200 != 0 || body[7] != 1 ? [] : .routes
        // NLMSG_NOOP, NLMSG_DONE, and what nobody has asked for.
        default: return []
        }
    }
}

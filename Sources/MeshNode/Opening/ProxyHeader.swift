import MeshIdentity
import MeshPolicy
import Platform
import Streams

/// The header of the PROXY protocol (haproxy.org/download/3.0/doc/proxy-protocol.txt): who has connected to the one
/// that has connected here, and to where.
struct ProxyHeader: Hashable, Sendable {
    struct Element: Hashable, Sendable {
        var type: UInt8
        var value: [UInt8]

        init(_ type: UInt8, _ value: some Sequence<UInt8>) { (self.type, self.value) = (type, Array(value)) }
    }

    /// nil where the proxy speaks for itself, or does not know.
    var source: SocketAddress?
    var destination: SocketAddress?
    /// Of version 2.
    var elements: [Element] = []

    /// PP2_TYPE_CRC32C.
    static let checksum: UInt8 = 0x03
    /// As ztunnel has them: the SPIFFE ID of who asks, and the name that was dialled.
    static let spiffeID: UInt8 = 0xD0
    static let dialledName: UInt8 = 0xD1

    fileprivate static let signature: [UInt8] = [13, 10, 13, 10, 0, 13, 10, 0x51, 0x55, 0x49, 0x54, 10]
    fileprivate static let text = Array("PROXY ".utf8)
}

/// Reads a ``ProxyHeader``, in whatever pieces it comes, and nothing behind it. Strict: whatever is not as the
/// specification writes it is an error. No I/O.
struct ProxyHeaderReader {
    private var bytes: [UInt8] = []
    private var isDone = false

    /// The specification's limit for version 1.
    private static let longestText = 107
    /// `PROXY UNKNOWN` and the end of the line.
    private static let shortestText = 15
    private static let fixedPart = 16
    /// Behind the fixed part; a proxy's own elements take some hundred bytes.
    private static let longestRest = 4096

    /// How many bytes there are at least until the header is whole: so many can be read without one of those behind it.
    var wanted: Int {
        if bytes.first == ProxyHeader.signature[0] {
            return bytes.count < Self.fixedPart ? Self.fixedPart - bytes.count : Self.fixedPart + rest - bytes.count
        }
        if bytes.count < Self.shortestText { return Self.shortestText - bytes.count }
        return bytes.last == 13 ? 1 : 2
    }

    private var rest: Int { Int(bytes[14]) << 8 | Int(bytes[15]) }

    /// - Parameter more: ``wanted`` bytes at most, at least one.
    /// - Returns: The header once it is whole; nil until then.
    mutating func receive(_ more: some Collection<UInt8>) throws(StreamError) -> ProxyHeader? {
        precondition(!isDone && more.count <= wanted, "a byte behind the header")
        bytes += more
        if bytes[0] == ProxyHeader.signature[0] { return try binary() }
        guard zip(bytes, ProxyHeader.text).allSatisfy({ $0 == $1 }) else {
            throw Self.failure("it does not begin with one")
        }
        return try text()
    }

    // MARK: Version 1

    private mutating func text() throws(StreamError) -> ProxyHeader? {
        guard let end = bytes.firstIndex(where: { !(0x20...0x7e).contains($0) }) else {
            guard bytes.count < Self.longestText else {
                throw Self.failure("its line is longer than \(Self.longestText) bytes")
            }
            return nil
        }
        guard bytes[end] == 13, bytes.count - end <= 2, bytes.count <= Self.longestText else {
            throw Self.failure("its line has a byte that none may have")
        }
        guard bytes.count - end == 2 else { return nil }
        guard bytes[end + 1] == 10 else { throw Self.failure("its line does not end in CRLF") }
        isDone = true
        let words = bytes[..<end].split(separator: 0x20, omittingEmptySubsequences: false).map {
            String(decoding: $0, as: UTF8.self)
        }
        // What follows UNKNOWN is to be ignored.
        if words[1] == "UNKNOWN" { return ProxyHeader() }
        guard words.count == 6, words[1] == "TCP4" || words[1] == "TCP6" else {
            throw Self.failure("its line is not PROXY TCP4|TCP6 SOURCE DESTINATION PORT PORT")
        }
        let isLong = words[1] == "TCP6"
        return ProxyHeader(
            source: try Self.address(words[2], words[4], isLong: isLong),
            destination: try Self.address(words[3], words[5], isLong: isLong)
        )
    }

    private static func address(_ host: String, _ port: String, isLong: Bool) throws(StreamError) -> SocketAddress {
        guard let address = IPAddress(host), host.utf8.contains(UInt8(ascii: ":")) == isLong,
            let number = UInt16(port), "\(number)" == port
        else { throw failure("'\(Printable.escape("\(host) \(port)"))' is no address and port of its family") }
        return SocketAddress(address, port: number)
    }

    // MARK: Version 2

    private mutating func binary() throws(StreamError) -> ProxyHeader? {
        guard zip(bytes, ProxyHeader.signature).allSatisfy({ $0 == $1 }) else {
            throw Self.failure("it does not begin with one")
        }
        guard bytes.count >= Self.fixedPart else { return nil }
        guard bytes[12] >> 4 == 2, bytes[12] & 15 <= 1 else {
            throw Self.failure("its version and command are 0x\(String(bytes[12], radix: 16))")
        }
        guard rest <= Self.longestRest else {
            throw Self.failure("it has \(rest) bytes behind its fixed part; \(Self.longestRest) are allowed")
        }
        guard bytes.count == Self.fixedPart + rest else { return nil }
        isDone = true
        let isLocal = bytes[12] & 15 == 0
        let size: Int
        switch bytes[13] {
        case 0x11: size = 4
        case 0x21: size = 16
        // What follows is to be ignored.
        case 0x00: return ProxyHeader()
        default:
            if isLocal { return ProxyHeader() }
            throw Self.failure("its family and protocol are 0x\(String(bytes[13], radix: 16)); TCP is allowed only")
        }
        let content = bytes[Self.fixedPart...]
        guard content.count >= 2 * size + 4 else { throw Self.failure("its addresses are cut off") }
        var header = ProxyHeader()
        let ports = content.dropFirst(2 * size)
        header.elements = try elements(ports.dropFirst(4))
        if isLocal { return ProxyHeader() }
        func address(_ host: ArraySlice<UInt8>, _ port: ArraySlice<UInt8>) -> SocketAddress? {
            IPAddress(bytes: host).map { SocketAddress($0, port: port.reduce(0) { $0 << 8 | UInt16($1) }) }
        }
        header.source = address(content.prefix(size), ports.prefix(2))
        header.destination = address(content.dropFirst(size).prefix(size), ports.dropFirst(2).prefix(2))
        return header
    }

    private func elements(_ content: ArraySlice<UInt8>) throws(StreamError) -> [ProxyHeader.Element] {
        var elements: [ProxyHeader.Element] = []
        var left = content
        while !left.isEmpty {
            let head = Array(left.prefix(3))
            let value = left.dropFirst(3)
            guard head.count == 3, value.count >= Int(head[1]) << 8 | Int(head[2]) else {
                throw Self.failure("an element of it is cut off")
            }
            let length = Int(head[1]) << 8 | Int(head[2])
            if head[0] == ProxyHeader.checksum { try check(value.prefix(length)) }
            elements.append(ProxyHeader.Element(head[0], value.prefix(length)))
            left = value.dropFirst(length)
        }
        return elements
    }

    private func check(_ sum: ArraySlice<UInt8>) throws(StreamError) {
        var header = bytes
        for index in sum.indices { header[index] = 0 }
        guard sum.count == 4, sum.reduce(0, { $0 << 8 | UInt32($1) }) == Self.crc32c(header) else {
            throw Self.failure("its checksum is wrong")
        }
    }

    /// RFC 9260 appendix B.
    static func crc32c(_ bytes: [UInt8]) -> UInt32 {
        var sum: UInt32 = 0xffff_ffff
        for byte in bytes {
            sum ^= UInt32(byte)
            for _ in 0..<8 { sum = sum & 1 == 1 ? sum >> 1 ^ 0x82f6_3b78 : sum >> 1 }
        }
        return ~sum
    }

    private static func failure(_ reason: String) -> StreamError {
        StreamError(.protocolViolation, "no header of the PROXY protocol: \(reason)")
    }
}

extension ProxyHeader {
    /// Of a stream that leads to `destination`. Which port it comes from is not known here, and written as 0.
    init(of request: StreamRequest, to destination: SocketAddress) {
        self.init(source: SocketAddress(request.sourceIP, port: 0), destination: destination)
        if case .peer(let peer) = request.source { elements.append(Element(Self.spiffeID, peer.description.utf8)) }
        let asked = request.destination
        if asked.address == nil { elements.append(Element(Self.dialledName, asked.host.utf8)) }
    }

    /// As it is sent; both addresses must be there. Addresses of two families are written as IPv6.
    func bytes(_ version: ProxyVersion) -> [UInt8] {
        guard let source, let destination, let from = source.address, let to = destination.address else { return [] }
        let isShort = from.isIPv4 && to.isIPv4
        if version == .v1 {
            func text(_ address: IPAddress) -> String {
                isShort || !address.isIPv4 ? "\(address)" : "::ffff:\(address)"
            }
            let family = isShort ? "TCP4" : "TCP6"
            return Array("PROXY \(family) \(text(from)) \(text(to)) \(source.port) \(destination.port)\r\n".utf8)
        }
        func bytes(_ address: IPAddress) -> [UInt8] {
            isShort || !address.isIPv4
                ? address.bytes : [UInt8](repeating: 0, count: 10) + [0xff, 0xff] + address.bytes
        }
        func bytes(_ number: UInt16) -> [UInt8] { [UInt8(number >> 8), UInt8(number & 255)] }
        var content = bytes(from) + bytes(to) + bytes(source.port) + bytes(destination.port)
        for element in elements { content += [element.type] + bytes(UInt16(element.value.count)) + element.value }
        return Self.signature + [0x21, isShort ? 0x11 : 0x21] + bytes(UInt16(content.count)) + content
    }
}

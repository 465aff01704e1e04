/// A header block while it is being received, within the connection's limits.
final class MessageHead {
    /// The pseudo-header fields of a request.
    private var method = ""
    private var scheme: String?
    private var authority = ""
    private var path: String?
    /// That of an answer; 0 without.
    private(set) var status = 0
    private(set) var fields = HeaderFields()
    /// The block is over the limit; what is above it was not kept.
    private(set) var isTooLarge = false
    /// It has fields that HTTP/2 does not allow, which are left out.
    var isMalformed = false
    private var bytes = 0
    private var count = 0
    /// A request that came before on the connection: what this one has the same, it has in common with it.
    private let former: RequestHead?

    init(after former: RequestHead? = nil) { self.former = former }

    func add(
        name: UnsafeBufferPointer<UInt8>,
        value: UnsafeBufferPointer<UInt8>,
        limits: H2Configuration.Limits
    ) {
        bytes += name.count + value.count + 32
        count += 1
        guard bytes <= limits.headerBytes, count <= limits.headerFields else {
            isTooLarge = true
            return
        }
        let name = String(decoding: name, as: UTF8.self)
        switch name {
        case ":method": method = Self.text(value, as: former?.method)
        case ":authority": authority = Self.text(value, as: former?.authority)
        case ":path": path = Self.text(value)
        case ":status": status = Int(Self.text(value)) ?? 0
        case ":scheme": scheme = Self.text(value)
        case ":protocol": break
        default: fields.append(name, Self.text(value))
        }
    }

    /// `former` where it is of these bytes.
    private static func text(_ bytes: UnsafeBufferPointer<UInt8>, as former: String?) -> String {
        guard var former, former.utf8.count == bytes.count, former.withUTF8({ $0.elementsEqual(bytes) }) else {
            return text(bytes)
        }
        return former
    }

    /// Bytes that are not UTF-8 are taken for ISO 8859-1, which HTTP once had: nothing is lost of them.
    private static func text(_ bytes: UnsafeBufferPointer<UInt8>) -> String {
        // Nearly all of them; the way below asks the runtime for a generic type each time.
        // Without a way out in between, so that the compiler looks at sixteen bytes at once.
        var all: UInt8 = 0
        for byte in bytes { all |= byte }
        if all < 0x80 { return String(decoding: bytes, as: UTF8.self) }
        if let text = String(validating: bytes, as: UTF8.self) { return text }
        return String(String.UnicodeScalarView(bytes.map { Unicode.Scalar($0) }))
    }

    /// What is asked for, where it is a request.
    var request: RequestHead {
        if let former, former.method == method, former.authority == authority, fields.isEmpty, former.fields.isEmpty,
            former.scheme == scheme, former.path == path
        {
            return former
        }
        return RequestHead(method, scheme: scheme, authority: authority, path: path, fields: fields)
    }
}

import CNGHTTP2

/// Header fields laid out for nghttp2, which copies them. One is used again for each head of a connection: what it has
/// grown to is kept.
struct HeaderBlock {
    private struct Entry {
        var nameStart: Int
        var valueStart: Int
        var end: Int
        var flags: UInt8
    }

    private var bytes: [UInt8] = []
    private var entries: [Entry] = []
    /// Pseudo-header fields come first; only this type adds them.
    private var pseudoFields = 0

    /// What is kept for the next head.
    private static let (keptBytes, keptEntries) = (4096, 64)

    /// None.
    init() {}

    /// Trailers.
    init(_ fields: HeaderFields) { add(fields) }

    mutating func set(_ head: RequestHead) {
        clear()
        add(":method", head.method)
        if let scheme = head.scheme { add(":scheme", scheme) }
        if let path = head.path { add(":path", path) }
        add(":authority", head.authority)
        pseudoFields = entries.count
        add(head.fields)
    }

    mutating func set(_ response: ConnectResponse) {
        clear()
        add(":status", response.status == 200 ? "200" : String(response.status))
        pseudoFields = entries.count
        add(response.headers)
    }

    mutating func add(_ trace: TraceParent) { add("traceparent", trace.description, NGHTTP2_NV_FLAG_NO_INDEX) }

    private mutating func clear() {
        if bytes.capacity > Self.keptBytes || entries.capacity > Self.keptEntries {
            self = HeaderBlock()
        } else {
            bytes.removeAll(keepingCapacity: true)
            entries.removeAll(keepingCapacity: true)
        }
    }

    private mutating func add(_ fields: HeaderFields) {
        for field in fields {
            switch field.name {
            // Never in a table that later requests are compared with (RFC 7541 §7.1.3), and not worth a place in it.
            case "authorization", "traceparent": add(field.name, field.value, NGHTTP2_NV_FLAG_NO_INDEX)
            // That a client can resume is the same for all of its requests; what proves that it may is a secret.
            case "resumable" where field.value.utf8.count > 1:
                add(field.name, field.value, NGHTTP2_NV_FLAG_NO_INDEX)
            default: add(field.name, field.value)
            }
        }
    }

    private mutating func add(_ name: String, _ value: String, _ flags: nghttp2_nv_flag = NGHTTP2_NV_FLAG_NONE) {
        let start = bytes.count
        append(name)
        let middle = bytes.count
        append(value)
        entries.append(
            Entry(
                nameStart: start,
                valueStart: middle,
                end: bytes.count,
                flags: UInt8(truncatingIfNeeded: flags.rawValue)
            )
        )
    }

    /// The bytes of a view are appended one by one, those of a buffer at once.
    private mutating func append(_ text: String) {
        var text = text
        text.withUTF8 { bytes.append(contentsOf: $0) }
    }

    /// The first field whose name or value HTTP/2 does not allow (RFC 9113 §8.2.1); its name.
    func invalidField() -> String? {
        bytes.withUnsafeBufferPointer { bytes in
            for (index, entry) in entries.enumerated() {
                let name = UnsafeBufferPointer(rebasing: bytes[entry.nameStart..<entry.valueStart])
                let value = UnsafeBufferPointer(rebasing: bytes[entry.valueStart..<entry.end])
                let hasName =
                    index < pseudoFields
                    || name.first != UInt8(ascii: ":") && nghttp2_check_header_name(name.baseAddress, name.count) != 0
                if !hasName || nghttp2_check_header_value(value.baseAddress, value.count) == 0 {
                    return String(decoding: name, as: UTF8.self)
                }
            }
            return nil
        }
    }

    func withFields<Result>(_ body: (UnsafePointer<nghttp2_nv>?, Int) -> Result) -> Result {
        bytes.withUnsafeBufferPointer { bytes in
            withUnsafeTemporaryAllocation(of: nghttp2_nv.self, capacity: entries.count) { fields in
                // nghttp2's fields are not `const`, and it writes to none.
                let base = UnsafeMutablePointer(mutating: bytes.baseAddress)
                for (index, entry) in entries.enumerated() {
                    fields[index] = nghttp2_nv(
                        name: base.map { $0 + entry.nameStart },
                        value: base.map { $0 + entry.valueStart },
                        namelen: entry.valueStart - entry.nameStart,
                        valuelen: entry.end - entry.valueStart,
                        flags: entry.flags
                    )
                }
                return body(UnsafePointer(fields.baseAddress), entries.count)
            }
        }
    }
}

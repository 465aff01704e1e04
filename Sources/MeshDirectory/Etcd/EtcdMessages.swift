import H2Transport
import Streams

// The messages of etcd v3's gRPC interface that a directory needs (etcdserverpb, rpc.proto; mvccpb, kv.proto).

/// The number of a revision, which has one after it.
private func revisionNumber(_ number: UInt64) throws(StreamError) -> Int64 {
    guard number < UInt64(Int64.max) else {
        throw StreamError(.protocolViolation, "etcd says revision \(Int64(bitPattern: number))")
    }
    return Int64(number)
}

/// `mvccpb.KeyValue`.
struct EtcdKeyValue: Hashable, Sendable {
    var key: [UInt8] = []
    /// Of the store, when the key was written last; 0: it is not there.
    var modRevision: Int64 = 0
    var value: [UInt8] = []

    init(decoding bytes: [UInt8]) throws(StreamError) {
        var reader = ProtobufReader(bytes)
        while let (field, value) = try reader.next() {
            switch (field, value) {
            case (1, .bytes(let bytes)): key = bytes
            case (3, .varint(let number)): modRevision = try revisionNumber(number)
            case (5, .bytes(let bytes)): self.value = bytes
            default: break
            }
        }
    }
}

/// `ResponseHeader`.
struct EtcdHeader: Hashable, Sendable {
    var cluster: UInt64 = 0
    /// Of the store.
    var revision: Int64 = 0

    init() {}

    init(decoding bytes: [UInt8]) throws(StreamError) {
        var reader = ProtobufReader(bytes)
        while let (field, value) = try reader.next() {
            switch (field, value) {
            case (1, .varint(let number)): cluster = number
            case (3, .varint(let number)): revision = try revisionNumber(number)
            default: break
            }
        }
    }
}

/// `RangeRequest`: every key that begins with a prefix, as of one moment.
struct EtcdRangeRequest {
    var prefix: [UInt8]
    var isKeysOnly = false

    static let path = "/etcdserverpb.KV/Range"

    var encoded: [UInt8] {
        var writer = ProtobufWriter()
        writer.add(1, prefix)
        writer.add(2, Self.end(of: prefix))
        if isKeysOnly { writer.add(8, 1 as Int64) }
        return writer.bytes
    }

    /// The first key after all those that begin with `prefix`.
    static func end(of prefix: [UInt8]) -> [UInt8] {
        var end = prefix
        while let last = end.popLast() {
            if last < 0xFF { return end + [last + 1] }
        }
        return [0]
    }
}

/// What a directory has under its prefix at most, with what later changes have left: an empty pair takes two bytes of a
/// message, and a hundred here.
private let mostPairs = 4 * DirectoryManifest.maximumParts + 2

private func check(_ count: Int) throws(StreamError) {
    guard count < mostPairs else { throw StreamError(.limit, "etcd says more than \(mostPairs) keys at once") }
}

/// `RangeResponse`.
struct EtcdRangeResponse {
    var header = EtcdHeader()
    var pairs: [EtcdKeyValue] = []

    init(decoding bytes: [UInt8]) throws(StreamError) {
        var reader = ProtobufReader(bytes)
        while let (field, value) = try reader.next() {
            switch (field, value) {
            case (1, .bytes(let bytes)): header = try EtcdHeader(decoding: bytes)
            case (2, .bytes(let bytes)):
                try check(pairs.count)
                pairs.append(try EtcdKeyValue(decoding: bytes))
            default: break
            }
        }
    }
}

/// `TxnRequest`: writes and deletes everything, if a key was written last at a revision; else nothing.
struct EtcdTxnRequest {
    /// 0: the key is not there.
    var condition: (key: [UInt8], modRevision: Int64)?
    var puts: [(key: [UInt8], value: [UInt8])] = []
    var deletes: [[UInt8]] = []

    static let path = "/etcdserverpb.KV/Txn"
    /// etcd takes 128 operations, and 1.5 MiB, unless it is told otherwise.
    static let mostOperations = 120
    static let mostBytes = 1 << 20

    var encoded: [UInt8] {
        var writer = ProtobufWriter()
        if let condition {
            // Result EQUAL is the default; target MOD.
            var compare = ProtobufWriter()
            compare.add(2, 2 as Int64)
            compare.add(3, condition.key)
            compare.add(6, condition.modRevision)
            writer.message(1, compare.bytes)
        }
        for (key, value) in puts {
            var put = ProtobufWriter()
            put.add(1, key)
            put.add(2, value)
            writer.message(2, Self.operation(2, put.bytes))
        }
        for key in deletes {
            var delete = ProtobufWriter()
            delete.add(1, key)
            writer.message(2, Self.operation(3, delete.bytes))
        }
        return writer.bytes
    }

    /// `RequestOp`.
    private static func operation(_ kind: UInt64, _ content: [UInt8]) -> [UInt8] {
        var writer = ProtobufWriter()
        writer.message(kind, content)
        return writer.bytes
    }
}

/// `TxnResponse`.
struct EtcdTxnResponse {
    var header = EtcdHeader()
    var succeeded = false

    init(decoding bytes: [UInt8]) throws(StreamError) {
        var reader = ProtobufReader(bytes)
        while let (field, value) = try reader.next() {
            switch (field, value) {
            case (1, .bytes(let bytes)): header = try EtcdHeader(decoding: bytes)
            case (2, .varint(let number)): succeeded = number != 0
            default: break
            }
        }
    }
}

/// `WatchRequest` with a `WatchCreateRequest`: what changes under a prefix from a revision on.
struct EtcdWatchRequest {
    var prefix: [UInt8]
    var startRevision: Int64

    static let path = "/etcdserverpb.Watch/Watch"

    var encoded: [UInt8] {
        var create = ProtobufWriter()
        create.add(1, prefix)
        create.add(2, EtcdRangeRequest.end(of: prefix))
        create.add(3, startRevision)
        var writer = ProtobufWriter()
        writer.message(1, create.bytes)
        return writer.bytes
    }
}

/// `WatchResponse`.
struct EtcdWatchResponse {
    var header = EtcdHeader()
    var isCreated = false
    var isCancelled = false
    /// The first revision that is still known, where the one that was asked for is not; 0 otherwise.
    var compactRevision: Int64 = 0
    var reason = ""
    /// In the order of the store.
    var events: [Event] = []

    struct Event: Hashable, Sendable {
        var isDeletion = false
        var pair: EtcdKeyValue?
    }

    init(decoding bytes: [UInt8]) throws(StreamError) {
        var reader = ProtobufReader(bytes)
        while let (field, value) = try reader.next() {
            switch (field, value) {
            case (1, .bytes(let bytes)): header = try EtcdHeader(decoding: bytes)
            case (3, .varint(let number)): isCreated = number != 0
            case (4, .varint(let number)): isCancelled = number != 0
            case (5, .varint(let number)): compactRevision = try revisionNumber(number)
            case (6, .bytes(let text)): reason = String(decoding: text, as: UTF8.self)
            case (11, .bytes(let bytes)):
                try check(events.count)
                events.append(try Self.event(bytes))
            default: break
            }
        }
    }

    private static func event(_ bytes: [UInt8]) throws(StreamError) -> Event {
        var event = Event()
        var reader = ProtobufReader(bytes)
        while let (field, value) = try reader.next() {
            switch (field, value) {
            case (1, .varint(let number)): event.isDeletion = number == 1
            case (2, .bytes(let bytes)): event.pair = try EtcdKeyValue(decoding: bytes)
            default: break
            }
        }
        return event
    }
}

import H2Transport
import Streams

// The messages of the SPIFFE Workload API that an X.509 identity needs (workload.proto).

/// `X509SVIDResponse`, as it came: nothing in it is verified.
struct WorkloadResponse: Hashable, Sendable {
    /// The first is the default.
    var svids: [SVID] = []
    /// In DER form.
    var revocationLists: [[UInt8]] = []
    /// By the SPIFFE ID of their trust domain.
    var federatedBundles: [FederatedBundle] = []

    /// `X509SVID`.
    struct SVID: Hashable, Sendable {
        var id = ""
        /// The chain in DER form, the leaf first.
        var chain: [UInt8] = []
        /// PKCS#8 in DER form. Never in a message, and never in a file.
        var key: [UInt8] = []
        /// The roots of the identity's own trust domain, in DER form.
        var bundle: [UInt8] = []
    }

    struct FederatedBundle: Hashable, Sendable {
        var domain = ""
        var roots: [UInt8] = []
    }

    static let path = "/SpiffeWorkloadAPI/FetchX509SVID"
    /// gRPC's own default: what an agent that is larger would be refused with by every other client, too.
    static let limit = 4 << 20
    /// Of each kind; an empty one takes two bytes of a message, and a hundred here.
    static let mostElements = 256

    init() {}

    init(decoding bytes: [UInt8]) throws(StreamError) {
        var reader = ProtobufReader(bytes)
        while let (field, value) = try reader.next() {
            switch (field, value) {
            case (1, .bytes(let bytes)):
                try Self.check(svids.count, "SVIDs")
                svids.append(try SVID(decoding: bytes))
            case (2, .bytes(let bytes)):
                try Self.check(revocationLists.count, "revocation lists")
                revocationLists.append(bytes)
            case (3, .bytes(let bytes)):
                try Self.check(federatedBundles.count, "federated bundles")
                federatedBundles.append(try FederatedBundle(decoding: bytes))
            default: break
            }
        }
    }

    private static func check(_ count: Int, _ what: String) throws(StreamError) {
        guard count < mostElements else {
            throw StreamError(.limit, "the response has more than \(mostElements) \(what)")
        }
    }
}

extension WorkloadResponse.SVID {
    fileprivate init(decoding bytes: [UInt8]) throws(StreamError) {
        var reader = ProtobufReader(bytes)
        while let (field, value) = try reader.next() {
            switch (field, value) {
            case (1, .bytes(let text)): id = String(decoding: text, as: UTF8.self)
            case (2, .bytes(let bytes)): chain = bytes
            case (3, .bytes(let bytes)): key = bytes
            case (4, .bytes(let bytes)): bundle = bytes
            default: break
            }
        }
    }
}

extension WorkloadResponse.FederatedBundle {
    /// An entry of `map<string, bytes>`.
    fileprivate init(decoding bytes: [UInt8]) throws(StreamError) {
        var reader = ProtobufReader(bytes)
        while let (field, value) = try reader.next() {
            switch (field, value) {
            case (1, .bytes(let text)): domain = String(decoding: text, as: UTF8.self)
            case (2, .bytes(let bytes)): roots = bytes
            default: break
            }
        }
    }
}

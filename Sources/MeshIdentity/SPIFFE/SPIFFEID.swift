/// The identity of a workload: `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/NAME`, or any other path of the SPIFFE-ID
/// specification.
///
/// Parsing is strict and says which rule was broken. Nothing is normalised: what parses is compared byte by byte.
public struct SPIFFEID: Hashable, Sendable, CustomStringConvertible {
    /// Who vouches for the workload.
    public var trustDomain: TrustDomain { parts.trustDomain }
    /// Empty (the ID of the trust domain itself), or `/` and segments.
    public var path: String { parts.path }
    /// `NAMESPACE`, if the path is `/ns/NAMESPACE/sa/NAME`. Kept, because every request asks for it.
    public var namespace: String? { parts.namespace }
    /// `NAME`, if the path is `/ns/NAMESPACE/sa/NAME`.
    public var serviceAccount: String? { parts.serviceAccount }
    /// The ID without its scheme, as policies name it.
    package var principal: String { parts.principal }

    /// An object: each request hands its peer's ID around, and a copy would retain each of its texts.
    private let parts: Parts

    private final class Parts: Sendable {
        let trustDomain: TrustDomain
        let path: String
        let namespace: String?
        let serviceAccount: String?
        let principal: String

        init(_ trustDomain: TrustDomain, _ path: String, _ workload: (namespace: String?, name: String?)) {
            self.trustDomain = trustDomain
            self.path = path
            (namespace, serviceAccount) = workload
            principal = trustDomain.name + path
        }
    }

    /// The longest ID, in bytes (SPIFFE-ID specification, §2.3).
    package static let maximumLength = 2048

    private static let scheme = "spiffe://"

    /// Parses an ID with its scheme, `spiffe://…`.
    ///
    /// - Throws: the rule that was broken.
    public init(_ text: String) throws(SPIFFEIDError) {
        try self.init(bytes: Array(text.utf8))
    }

    /// Parses the bytes of a URI, as a certificate carries them.
    package init(bytes: [UInt8]) throws(SPIFFEIDError) {
        guard !bytes.isEmpty else {
            throw SPIFFEIDError(
                .empty,
                "the SPIFFE ID is empty; it has the form spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/NAME"
            )
        }
        guard bytes.count <= Self.maximumLength else {
            throw SPIFFEIDError(
                .length,
                "the SPIFFE ID has \(bytes.count) bytes; at most \(Self.maximumLength) are allowed"
            )
        }
        guard bytes.starts(with: Self.scheme.utf8) else {
            throw SPIFFEIDError(.scheme, "the scheme is not spiffe:// (in lower case)")
        }
        let rest = bytes[Self.scheme.utf8.count...]
        // Asked for by name first: "a query" tells more than "a '?' in the path".
        for byte in rest {
            switch byte {
            case UInt8(ascii: "?"):
                throw SPIFFEIDError(.query, "there is a query (a '?'), which a SPIFFE ID must not have")
            case UInt8(ascii: "#"):
                throw SPIFFEIDError(.fragment, "there is a fragment (a '#'), which a SPIFFE ID must not have")
            case UInt8(ascii: "%"):
                throw SPIFFEIDError(.percentEncoding, "there is a '%': percent-encoding is not allowed in a SPIFFE ID")
            default:
                continue
            }
        }
        let slash = rest.firstIndex(of: UInt8(ascii: "/")) ?? rest.endIndex
        let trustDomain = try TrustDomain(validating: rest[..<slash])
        if slash < rest.endIndex { try Self.validate(path: rest[slash...]) }
        let path = String(decoding: rest[slash...], as: UTF8.self)
        parts = Parts(trustDomain, path, Self.workload(in: path))
    }

    /// The ID of a workload in the form that Istio and ztunnel know.
    ///
    /// `namespace` and `name` are one path segment each: letters, digits, `.`, `-`, `_`.
    public init(trustDomain: TrustDomain, namespace: String, name: String) throws(SPIFFEIDError) {
        for (what, segment) in [("namespace", namespace), ("name", name)] {
            guard !segment.isEmpty else { throw SPIFFEIDError(.emptySegment, "the \(what) is empty") }
            guard !segment.utf8.contains(UInt8(ascii: "/")) else {
                throw SPIFFEIDError(.character, "the \(what) has a '/'; it must be one path segment")
            }
            try Self.validate(path: Array("/\(segment)".utf8)[...])
        }
        try self.init("\(Self.scheme)\(trustDomain.name)/ns/\(namespace)/sa/\(name)")
    }

    /// The ID of the trust domain itself.
    init(trustDomain: TrustDomain) {
        parts = Parts(trustDomain, "", (nil, nil))
    }

    private static func workload(in path: String) -> (namespace: String?, name: String?) {
        let segments = path.utf8.split(separator: UInt8(ascii: "/"))
        guard segments.count == 4, String(segments[0]) == "ns", String(segments[2]) == "sa" else { return (nil, nil) }
        return (String(segments[1]), String(segments[3]))
    }

    public static func == (first: SPIFFEID, second: SPIFFEID) -> Bool {
        first.parts === second.parts || first.principal == second.principal
    }

    public func hash(into hasher: inout Hasher) { hasher.combine(principal) }

    public var description: String { Self.scheme + principal }

    /// Checks `/segment/segment…` (SPIFFE-ID specification, §2.2).
    private static func validate(path: ArraySlice<UInt8>) throws(SPIFFEIDError) {
        let segments = path.dropFirst().split(separator: UInt8(ascii: "/"), omittingEmptySubsequences: false)
        for (index, segment) in segments.enumerated() {
            if segment.isEmpty {
                guard index < segments.count - 1 else {
                    throw SPIFFEIDError(.trailingSlash, "the path ends in '/'")
                }
                throw SPIFFEIDError(.emptySegment, "the path has an empty segment (two slashes in a row)")
            }
            if segment.elementsEqual(".".utf8) || segment.elementsEqual("..".utf8) {
                throw SPIFFEIDError(.dotSegment, "the path has the segment '\(segment.count == 1 ? "." : "..")'")
            }
            for byte in segment where !TrustDomain.isAllowed(byte) {
                if case UInt8(ascii: "A")...UInt8(ascii: "Z") = byte { continue }
                if byte == UInt8(ascii: "%") {
                    throw SPIFFEIDError(
                        .percentEncoding,
                        "there is a '%': percent-encoding is not allowed in a SPIFFE ID"
                    )
                }
                throw SPIFFEIDError(
                    .character,
                    "the path has \(quoted(byte)); only letters, digits, '.', '-' and '_' are allowed in a segment"
                )
            }
        }
    }
}

/// Why a certificate does not prove a SPIFFE ID (X509-SVID specification, §§2–5).
///
/// Never a reason to try another path: whoever presents it is refused on every one.
public struct SVIDError: Error, Hashable, Sendable, CustomStringConvertible {
    /// The rule that was broken; new rules may be added.
    public struct Code: Hashable, Sendable, CustomStringConvertible {
        package enum Kind: String {
            case noURIName, multipleURINames, invalidID, noPath, isCA, keyUsage, extendedKeyUsage, weakKey
            case expired, notYetValid, revoked, unknownTrustDomain, untrusted, malformed, wrongID
        }
        package let kind: Kind
        public var description: String { kind.rawValue }

        /// No URI name: no SPIFFE ID.
        public static let noURIName = Code(kind: .noURIName)
        /// More than one URI name.
        public static let multipleURINames = Code(kind: .multipleURINames)
        /// The URI name is no SPIFFE ID.
        public static let invalidID = Code(kind: .invalidID)
        /// The ID of a trust domain, not of a workload.
        public static let noPath = Code(kind: .noPath)
        /// The certificate may sign others.
        public static let isCA = Code(kind: .isCA)
        /// Key usage is missing, not critical, lacks digitalSignature, or allows signing certificates.
        public static let keyUsage = Code(kind: .keyUsage)
        /// Extended key usage lacks server or client authentication.
        public static let extendedKeyUsage = Code(kind: .extendedKeyUsage)
        /// The key is too weak or of an unknown kind.
        public static let weakKey = Code(kind: .weakKey)
        /// Past its notAfter.
        public static let expired = Code(kind: .expired)
        /// Before its notBefore.
        public static let notYetValid = Code(kind: .notYetValid)
        /// Its issuer no longer stands by it.
        public static let revoked = Code(kind: .revoked)
        /// There is no trust bundle for the peer's trust domain.
        public static let unknownTrustDomain = Code(kind: .unknownTrustDomain)
        /// No chain to a root of the peer's trust domain.
        public static let untrusted = Code(kind: .untrusted)
        /// Damaged, or not X.509 version 3.
        public static let malformed = Code(kind: .malformed)
        /// A good certificate of somebody else.
        public static let wrongID = Code(kind: .wrongID)
    }

    /// The rule that was broken, for programs.
    public var code: Code
    /// What is wrong with whose certificate, for people.
    public var message: String

    /// - Parameters:
    ///   - code: The rule that was broken.
    ///   - message: What is wrong with whose certificate.
    public init(_ code: Code, _ message: String) {
        self.code = code
        self.message = message
    }

    public var description: String { message }
}

import Platform

/// An OpenSSH certificate (`PROTOCOL.certkeys`): a CA's word that a key belongs to a host or a user.
///
/// Parsing says nothing about trust: that is ``refusal(asHost:authorities:at:matches:)``. Every length is checked, and
/// nothing may follow the last field.
package struct SSHCertificate: Hashable, Sendable {
    package enum Kind: UInt32, Hashable, Sendable {
        case user = 1
        case host = 2
    }

    /// A critical option or an extension.
    package struct Option: Hashable, Sendable {
        package var name: String
        package var data: [UInt8]
    }

    /// `ecdsa-sha2-nistp256-cert-v01@openssh.com`
    package let algorithm: String
    /// The whole certificate in the wire format.
    package let blob: [UInt8]
    /// The certified key's wire format, without the certificate.
    package let keyBlob: [UInt8]
    package let serial: UInt64
    package let kind: Kind
    /// What the CA calls it; for logs. May hold anything.
    package let keyID: String
    /// Host names or user names.
    package let principals: [String]
    /// Seconds since 1970.
    package let validAfter: UInt64
    /// Seconds since 1970, the first one at which it is no longer valid; all bits set means for ever.
    package let validBefore: UInt64
    package let criticalOptions: [Option]
    package let extensions: [Option]
    package let authority: SSHPublicKey
    private let signature: [UInt8]
    /// How many bytes of ``blob`` are signed.
    private let signedLength: Int

    static let suffix = "-cert-v01@openssh.com"
    /// OpenSSH's own limits: 256 principals; options are few.
    private static let maximumPrincipals = 256
    private static let maximumOptions = 256
    private static let maximumLength = 256 << 10

    /// - Throws: ``IdentityError`` with code `invalidCertificate`.
    package init(blob: [UInt8]) throws(IdentityError) {
        func invalid(_ why: String) -> IdentityError {
            IdentityError(.invalidCertificate, "this is no OpenSSH certificate that can be used: \(why)")
        }
        guard blob.count <= Self.maximumLength else { throw invalid("it is too long") }
        var reader = SSHWireReader(blob)
        guard let algorithm = reader.name(), algorithm.hasSuffix(Self.suffix) else {
            throw invalid("it is not of type …\(Self.suffix)")
        }
        var keyAlgorithm = String(algorithm.dropLast(Self.suffix.count))
        // The security keys' own types have OpenSSH's domain, too.
        if keyAlgorithm.hasPrefix("sk-") { keyAlgorithm += "@openssh.com" }
        guard let nonce = reader.string(), nonce.count <= 64 else { throw invalid("it has no nonce") }
        let key: SSHKeyFields
        do throws(IdentityError) {
            key = try SSHKeyFields(keyAlgorithm, &reader)
        } catch {
            throw invalid(error.message)
        }
        guard let serial = reader.uint64(), let type = reader.uint32(), let keyID = reader.string(),
            let principals = reader.string(), let after = reader.uint64(), let before = reader.uint64(),
            let critical = reader.string(), let extensions = reader.string(), reader.string() != nil,
            let authority = reader.string()
        else { throw invalid("it ends early") }
        signedLength = blob.count - reader.rest.count
        guard let signature = reader.string() else { throw invalid("it has no signature") }
        guard reader.rest.isEmpty else { throw invalid("\(reader.rest.count) bytes follow it") }
        guard let kind = Kind(rawValue: type) else { throw invalid("it is neither a user's nor a host's") }
        guard let names = Self.names(principals) else { throw invalid("its principals are malformed") }
        guard let critical = Self.options(critical), let extensions = Self.options(extensions) else {
            throw invalid("its options are malformed")
        }
        do throws(IdentityError) {
            self.authority = try SSHPublicKey(blob: Array(authority))
        } catch {
            throw invalid("its CA: \(error.message)")
        }
        self.algorithm = algorithm
        self.blob = blob
        keyBlob = key.blob
        self.serial = serial
        self.kind = kind
        self.keyID = String(decoding: keyID, as: UTF8.self)
        self.principals = names
        validAfter = after
        validBefore = before
        criticalOptions = critical
        self.extensions = extensions
        self.signature = Array(signature)
    }

    /// `type base64 comment`, as in an `id-cert.pub` file.
    package init(line: [UInt8]) throws(IdentityError) {
        let words = String(decoding: line, as: UTF8.self).split(maxSplits: 2, whereSeparator: \.isWhitespace)
        guard words.count >= 2, let blob = Base64.decode(words[1]) else {
            throw IdentityError(
                .invalidCertificate,
                "a line 'TYPE BASE64 COMMENT' is needed, as in an id-cert.pub file"
            )
        }
        try self.init(blob: blob)
    }

    /// As in an `id-cert.pub` file, without a comment and the end of the line.
    package var line: String { "\(algorithm) \(Base64.encode(blob))" }

    /// Whether the CA that the certificate names has signed it.
    package var isSigned: Bool { authority.verifies(signature, of: Array(blob[..<signedLength])) }

    /// When it is valid, for people.
    package var validity: String {
        let from = validAfter == 0 ? "the beginning of time" : Self.describe(validAfter)
        return "from \(from) until \(validBefore == .max ? "the end of time" : Self.describe(validBefore))"
    }

    private static func describe(_ seconds: UInt64) -> String {
        Int64(exactly: seconds).map { Platform.describe(time: $0) } ?? "\(seconds) seconds after 1970"
    }

    private static func names(_ bytes: ArraySlice<UInt8>) -> [String]? {
        var reader = SSHWireReader(bytes)
        var names: [String] = []
        while !reader.rest.isEmpty {
            guard names.count < maximumPrincipals, let name = reader.string(), !name.isEmpty, !name.contains(0),
                let text = String(validating: name, as: UTF8.self)
            else { return nil }
            names.append(text)
        }
        return names
    }

    /// Options are sorted by name and appear once.
    private static func options(_ bytes: ArraySlice<UInt8>) -> [Option]? {
        var reader = SSHWireReader(bytes)
        var options: [Option] = []
        while !reader.rest.isEmpty {
            guard options.count < maximumOptions, let name = reader.text(), let data = reader.string(),
                !options.contains(where: { $0.name == name })
            else { return nil }
            options.append(Option(name: name, data: Array(data)))
        }
        return options
    }
}

extension SSHCertificate {
    /// Whether the clock is within the validity; else a sentence with both dates.
    ///
    /// - Parameter now: seconds since 1970.
    package func expiry(at now: Int64) -> String? {
        let now = UInt64(clamping: now)
        if now < validAfter { return "is not valid yet: it is valid \(validity), and it is \(Self.describe(now)) now" }
        if now >= validBefore { return "has expired: it was valid \(validity), and it is \(Self.describe(now)) now" }
        return nil
    }

    /// Why the certificate does not vouch for a host; nil when it does.
    ///
    /// - Parameters:
    ///   - name: the host as it is looked up in known_hosts, without a port.
    ///   - authorities: the keys of the `@cert-authority` lines that cover the host.
    ///   - now: seconds since 1970.
    ///   - matches: compares a name with a principal, which may have wildcards.
    package func refusal(
        asHost name: String,
        authorities: [[UInt8]],
        at now: Int64,
        matches: (_ name: String, _ pattern: String) -> Bool
    ) -> String? {
        guard kind == .host else { return "is a user's, not a host's" }
        guard authorities.contains(authority.blob) else {
            return "was signed by \(authority), which no @cert-authority line for this host names"
        }
        guard isSigned else { return "has a wrong signature" }
        // None is defined for hosts, and one that is not understood must not be passed over.
        if let option = criticalOptions.first {
            return
                "has the critical option '\(option.name.filter { $0.isASCII && !$0.isWhitespace })', which is not known"
        }
        if let expiry = expiry(at: now) { return expiry }
        guard !principals.isEmpty else { return "names no host" }
        let name = name.lowercased()
        guard principals.contains(where: { matches(name, $0.lowercased()) }) else {
            return "is for \(principals.prefix(5).joined(separator: ", ")), not for \(name)"
        }
        return nil
    }
}

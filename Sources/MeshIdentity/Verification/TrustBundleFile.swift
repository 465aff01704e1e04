import Glibc
import Platform

/// The bundle of a trust domain as a file has it: certificates in PEM form, or a SPIFFE bundle (SPIFFE Trust Domain and
/// Bundle specification, §4): a JSON Web Key Set whose keys with `use: x509-svid` carry one root certificate each.
package struct TrustBundleFile: Sendable {
    package let bundle: TrustBundle
    /// `spiffe_sequence`: grows with each version of a SPIFFE bundle; nil where the file has none.
    package let sequence: UInt64?
    /// `spiffe_refresh_hint`: how often to look for another version, in seconds; nil where the file has none.
    package let refreshHint: UInt64?

    /// More is no bundle of roots.
    package static let maximumSize = 1 << 20
    package static let maximumRoots = 64

    /// Reads a file.
    ///
    /// - Throws: ``IdentityError``, with the path in its text.
    package init(loading path: String, of domain: TrustDomain) throws(IdentityError) {
        let file: (bytes: [UInt8], access: FileAccess)?
        do throws(LocalFile.Failure) {
            // Read again with every reload: whatever somebody has put there must not hold the node.
            file = try LocalFile.readWithAccess(path, limit: Self.maximumSize, allowsPipe: false)
        } catch {
            let reason = error.number == EFBIG ? "it has more than \(Self.maximumSize >> 10) KiB" : error.reason
            throw IdentityError(.file, "\(path): \(reason)")
        }
        guard let file else { throw IdentityError(.notFound, "\(path): there is no such file") }
        try requireTrusted(file.access, path: path)
        do throws(IdentityError) {
            try self.init(parsing: file.bytes, of: domain)
        } catch {
            throw IdentityError(error.code, "\(path): \(error.message)")
        }
    }

    package init(parsing bytes: [UInt8], of domain: TrustDomain) throws(IdentityError) {
        guard bytes.count <= Self.maximumSize else {
            throw IdentityError(.invalidCertificate, "it has more than \(Self.maximumSize >> 10) KiB")
        }
        let isSpace = { (byte: UInt8) in [0x20, 0x09, 0x0A, 0x0D].contains(byte) }
        let roots: [Certificate]
        if bytes.first(where: { !isSpace($0) }) == UInt8(ascii: "{") {
            let document: StrictJSON
            do throws(StrictJSON.Unreadable) {
                document = try StrictJSON(parsing: bytes)
            } catch {
                throw IdentityError(.invalidCertificate, "it is not JSON that has one meaning: \(error)")
            }
            roots = try Self.roots(of: document)
            sequence = try Self.number("spiffe_sequence", in: document)
            refreshHint = try Self.number("spiffe_refresh_hint", in: document)
        } else {
            roots = try Certificate.all(pem: bytes)
            (sequence, refreshHint) = (nil, nil)
        }
        guard roots.count <= Self.maximumRoots else {
            throw IdentityError(
                .invalidCertificate,
                "it has \(roots.count) roots; \(Self.maximumRoots) are allowed"
            )
        }
        bundle = try TrustBundle(trustDomain: domain, roots: roots)
    }

    /// Keys for another use, or without one, are none of ours (§4.2.2 of the specification).
    private static func roots(of document: StrictJSON) throws(IdentityError) -> [Certificate] {
        guard case .array(let keys) = document["keys"] else {
            throw IdentityError(.invalidCertificate, "it is no SPIFFE bundle: {\"keys\": […]}")
        }
        var roots: [Certificate] = []
        for (index, key) in keys.enumerated() where key["use"]?.text == "x509-svid" {
            // So many are looked at, however many there are.
            guard roots.count <= maximumRoots else { break }
            guard case .array(let chain) = key["x5c"], chain.count == 1, let text = chain[0].text,
                let der = Base64.decode(text)
            else {
                throw IdentityError(
                    .invalidCertificate,
                    "key \(index + 1): its 'x5c' is not one certificate in base64, as a key with 'use: x509-svid' has it"
                )
            }
            do throws(IdentityError) {
                roots.append(try Certificate(der: der))
            } catch {
                throw IdentityError(error.code, "key \(index + 1): \(error.message)")
            }
        }
        guard !roots.isEmpty else {
            throw IdentityError(
                .invalidCertificate,
                "it has no key with 'use: x509-svid': nobody could prove an identity of that trust domain"
            )
        }
        return roots
    }

    private static func number(_ name: String, in document: StrictJSON) throws(IdentityError) -> UInt64? {
        guard let value = document[name] else { return nil }
        guard case .number(let number) = value, let whole = UInt64(exactly: number) else {
            throw IdentityError(.invalidCertificate, "its '\(name)' is no whole number")
        }
        return whole
    }
}

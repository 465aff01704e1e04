package import MeshIdentity
import Platform

/// The signed head of a mesh's directory: whose it is, which revision, and the SHA-256 of each piece of its content.
///
/// ```
/// # bootstrap mesh directory 1
/// # domain: example.org
/// # revision: 1764466000
/// # time: 2026-11-30T01:26:40Z
/// # part: 2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae 16211
/// # certificate: MIIB…
/// # signature: MEUC…
/// ```
///
/// Comments of YAML: in a file it stands above the content, which a person can read and edit. What is signed is these
/// bytes, from the first to the end of the line before the signature, exactly as they are stored; there is one way to
/// write them, and any other is refused.
package struct DirectoryManifest: Hashable, Sendable {
    package struct Part: Hashable, Sendable {
        /// SHA-256 in lower-case hexadecimal.
        package let hash: String
        /// Bytes, at least one.
        package let length: Int

        package init(hash: String, length: Int) { (self.hash, self.length) = (hash, length) }
    }

    /// The trust domain's name.
    package let domain: String
    /// Of a later one it is higher. At least the seconds since 1970 when it was made: so a mesh whose operator has lost
    /// everything but the key goes on.
    package let revision: Int64
    /// When it was signed, in seconds since 1970: for people.
    package let time: Int64
    package let parts: [Part]
    /// Of the key that has signed, in DER form.
    package let certificate: [UInt8]
    package let signature: [UInt8]
    /// All of it, as it is stored.
    package let bytes: [UInt8]
    /// How many of them the signature is over.
    private let signedCount: Int

    package static let firstLine = "# bootstrap mesh directory 1"
    /// Of the content, in bytes.
    package static let maximumContent = 16 << 20
    package static let maximumParts = 4096
    /// Of the manifest, in bytes: what so many parts take, and a large certificate.
    package static let maximumLength = 512 << 10
    /// Far more than the seconds that will ever be; there is always one after a real one.
    package static let maximumRevision: Int64 = 1 << 53

    /// How many bytes the content has.
    package var contentLength: Int { parts.reduce(0) { $0 + $1.length } }

    /// Signs.
    package init(
        domain: String,
        revision: Int64,
        time: Int64,
        parts: [Part],
        signer: DirectorySigner
    ) throws(IdentityError) {
        var text = "\(Self.firstLine)\n# domain: \(domain)\n# revision: \(revision)\n# time: \(describe(time: time))\n"
        for part in parts { text += "# part: \(part.hash) \(part.length)\n" }
        let certificate = signer.certificate.der
        text += "# certificate: \(Base64.encode(certificate))\n"
        let signed = Array(text.utf8)
        let signature = try signer.key.signature(of: signed)
        (self.domain, self.revision, self.time, self.parts) = (domain, revision, time, parts)
        (self.certificate, self.signature, signedCount) = (certificate, signature, signed.count)
        bytes = signed + Array("# signature: \(Base64.encode(signature))\n".utf8)
    }

    /// Reads what stands at the beginning of `bytes`; what follows is not looked at.
    ///
    /// - Throws: ``DirectoryError`` with `unsigned` where there is no manifest, `damaged` or `limit` for a bad one.
    package init(parsing bytes: some Collection<UInt8>) throws(DirectoryError) {
        var lines = ManifestLines(bytes.prefix(Self.maximumLength))
        guard lines.next() == Self.firstLine else {
            throw DirectoryError(
                .unsigned,
                "it is not signed: it does not begin with '\(Self.firstLine)'; `bootstrap mesh put --replace FILE` writes one that is"
            )
        }
        domain = try lines.value("domain")
        revision = try lines.number("revision", 1...Self.maximumRevision)
        let timeText = try lines.value("time")
        guard let time = try? parseTime(timeText), describe(time: time) == timeText else {
            throw lines.damaged("'time' is no time")
        }
        self.time = time
        var parts: [Part] = []
        var length = 0
        while let text = lines.valueIfPresent("part") {
            let words = text.split(separator: " ", omittingEmptySubsequences: false)
            guard words.count == 2, let count = Int(words[1]), "\(count)" == words[1], count > 0,
                words[0].utf8.count == 64, words[0].utf8.allSatisfy(Self.isHexadecimal)
            else { throw lines.damaged("a 'part' is not a SHA-256 and a length") }
            guard count <= Self.maximumContent else { throw Self.tooLarge }
            length += count
            guard length <= Self.maximumContent, parts.count < Self.maximumParts else { throw Self.tooLarge }
            parts.append(Part(hash: String(words[0]), length: count))
        }
        self.parts = parts
        certificate = try lines.base64("certificate")
        signedCount = lines.consumed
        signature = try lines.base64("signature")
        self.bytes = Array(bytes.prefix(lines.consumed))
    }

    private static func isHexadecimal(_ byte: UInt8) -> Bool {
        (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) || (UInt8(ascii: "a")...UInt8(ascii: "f")).contains(byte)
    }

    static var tooLarge: DirectoryError {
        DirectoryError(
            .limit,
            "it has more than \(maximumContent >> 20) MiB, or more than \(maximumParts) parts: nobody takes that"
        )
    }

    /// Whether the mesh's own key has signed it.
    ///
    /// - Parameters:
    ///   - bundle: The roots of the own trust domain, and what they no longer stand by.
    ///   - now: Seconds since 1970; nil is the clock.
    /// - Throws: ``DirectoryError`` with `foreign` or `unsigned`.
    package func verify(with bundle: TrustBundle, at now: Int64? = nil) throws(DirectoryError) {
        guard domain == bundle.trustDomain.name else {
            throw DirectoryError(
                .foreign,
                "it is of the mesh \(Printable.clean(domain, limit: 255)), and this is \(bundle.trustDomain)"
            )
        }
        do throws(IdentityError) {
            let certificate = try Certificate(der: certificate)
            try bundle.verify(directoryKey: certificate, at: now)
            guard certificate.verifies(signature, of: Array(bytes.prefix(signedCount))) else {
                throw IdentityError(.refused, "its signature is wrong: it was changed after it was signed")
            }
        } catch {
            throw DirectoryError(
                .unsigned,
                "\(error.message); `bootstrap mesh put --replace FILE` signs what is to hold"
            )
        }
    }

    /// Whether it may come after `previous`; nil: nothing was there before.
    ///
    /// - Throws: ``DirectoryError`` with `backwards`.
    package func check(after previous: DirectoryManifest?) throws(DirectoryError) {
        guard let previous, previous.domain == domain, previous.bytes != bytes else { return }
        guard revision > previous.revision else {
            let what =
                revision == previous.revision
                ? "it says something else with the same revision \(revision)"
                : "it goes backwards: revision \(revision) comes after \(previous.revision)"
            throw DirectoryError(
                .backwards,
                "\(what); somebody has put an earlier copy back, or two operators had no common past"
            )
        }
    }
}

/// Lines of a manifest, strictly in their order.
private struct ManifestLines {
    private let bytes: [UInt8]
    private(set) var consumed = 0

    init(_ bytes: some Collection<UInt8>) { self.bytes = Array(bytes) }

    mutating func next() -> String? {
        guard let (line, end) = peek() else { return nil }
        consumed = end
        return line
    }

    private func peek() -> (String, Int)? {
        guard let end = bytes[consumed...].firstIndex(of: UInt8(ascii: "\n")) else { return nil }
        let line = bytes[consumed..<end]
        guard line.allSatisfy({ (0x20...0x7E).contains($0) }) else { return nil }
        return (String(decoding: line, as: UTF8.self), end + 1)
    }

    mutating func valueIfPresent(_ key: String) -> String? {
        let prefix = "# \(key): "
        guard let (line, end) = peek(), line.hasPrefix(prefix) else { return nil }
        consumed = end
        return String(line.dropFirst(prefix.count))
    }

    mutating func value(_ key: String) throws(DirectoryError) -> String {
        guard let value = valueIfPresent(key), !value.isEmpty else { throw damaged("'\(key)' is missing") }
        return value
    }

    mutating func number(_ key: String, _ range: ClosedRange<Int64>) throws(DirectoryError) -> Int64 {
        let text = try value(key)
        guard let number = Int64(text), "\(number)" == text, range.contains(number) else {
            throw damaged("'\(key)' is no number that it can have")
        }
        return number
    }

    mutating func base64(_ key: String) throws(DirectoryError) -> [UInt8] {
        let text = try value(key)
        guard text.utf8.count <= 16 << 10, let bytes = Base64.decode(text) else {
            throw damaged("'\(key)' is not base 64")
        }
        return bytes
    }

    func damaged(_ why: String) -> DirectoryError {
        DirectoryError(.damaged, "its head is damaged: \(why); `bootstrap mesh put --replace FILE` writes a new one")
    }
}

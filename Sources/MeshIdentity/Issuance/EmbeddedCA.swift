import COpenSSL
import Glibc
import Platform

/// A certificate authority in a directory: `ca-key.pem` (0600, may be encrypted), `ca-cert.pem`, and `root-cert.pem`
/// with every root that its trust domain is verified with. Beside them, what signs the mesh's directory
/// (`DirectorySigner`).
///
/// Signing takes microseconds, and reads at most the revocation lists, so one object serves any number of tasks at
/// once.
public struct EmbeddedCA: CertificateIssuer {
    /// The one trust domain that it vouches for.
    public let trustDomain: TrustDomain
    /// Its own certificate, whose key signs.
    public let certificate: Certificate
    /// The CA's own certificate, and former or future ones while a root is replaced.
    public let roots: [Certificate]
    let key: PrivateKey
    /// Where it is; nil for one in memory only.
    let directory: String?

    package static let keyFile = "ca-key.pem"
    package static let certificateFile = "ca-cert.pem"
    package static let rootsFile = "root-cert.pem"
    /// While a root is replaced: the new one's key, signed by the old one.
    package static let vouchersFile = "vouchers.pem"
    /// What it no longer stands by; not there as long as that is nothing.
    package static let revocationsFile = "ca-crl.pem"

    /// Ten years, as Istio's: replacing a root means visiting every device.
    public static let defaultLifetime = Duration.seconds(10 * 365 * 24 * 60 * 60)

    /// How far back NotBefore of the CA's own certificate is set, in seconds: a device whose clock is behind could use
    /// no certificate of a CA that is younger than that. Nothing is gained by a date that is closer: whoever trusts a
    /// root was given it by hand.
    static let rootBackdating: Int64 = 365 * 24 * 60 * 60

    /// When the CA was made, in seconds since 1970, for one with the ``defaultLifetime``.
    package static func madeAt(_ root: Certificate) -> Int64 {
        root.notAfter - defaultLifetime.components.seconds
    }

    /// Makes a CA: a new key and a self-signed certificate that carries `spiffe://TRUST-DOMAIN`.
    ///
    /// The directory appears whole or not at all. Fails with `alreadyExists` if there is something in it already.
    public static func create(
        directory: String,
        trustDomain: TrustDomain,
        passphrase: Passphrase? = nil,
        lifetime: Duration = EmbeddedCA.defaultLifetime
    ) throws(IdentityError) -> EmbeddedCA {
        let (parent, _) = AtomicFile.split(directory)
        try fileWork(AtomicFile.createDirectory(parent, mode: 0o700))
        // Nobody else makes a CA here meanwhile: what is there unfinished is what somebody has left who was killed.
        let lock = try fileWork(FileLock(directory: parent, patience: .seconds(10)))
        defer { withExtendedLifetime(lock) {} }
        removeUnfinished(of: directory)
        let ca = try EmbeddedCA(trustDomain: trustDomain, lifetime: lifetime, now: WallClock.system.seconds)
        let signer = try ca.makeDirectorySigner()
        let files = [
            (DirectorySigner.keyFile, try signer.key.pem(), 0o600 as UInt32),
            (DirectorySigner.certificateFile, signer.certificate.pem, 0o644),
        ]
        return try create(ca, directory: directory, passphrase: passphrase, beside: files)
    }

    /// - Parameter others: What else comes with it: names, contents and permissions.
    static func create(
        _ ca: EmbeddedCA,
        directory: String,
        passphrase: Passphrase?,
        beside others: [(String, [UInt8], UInt32)] = []
    ) throws(IdentityError) -> EmbeddedCA {
        let (parent, name) = AtomicFile.split(directory)
        try fileWork(AtomicFile.createDirectory(parent, mode: 0o700))
        let temporary = "\(parent)/.\(name).\(AtomicFile.randomName())"
        let keyPEM = if let passphrase { try ca.key.pem(encryptedWith: passphrase) } else { try ca.key.pem() }
        let files =
            [
                (keyFile, keyPEM, 0o600 as UInt32), (certificateFile, ca.certificate.pem, 0o644),
                (rootsFile, ca.certificate.pem, 0o644),
            ] + others
        do throws(IdentityError) {
            try fileWork(AtomicFile.createDirectory(temporary, mode: 0o700))
            for (file, bytes, mode) in files {
                try fileWork(AtomicFile.create(bytes, at: "\(temporary)/\(file)", mode: mode))
            }
            try fileWork(AtomicFile.synchronize(directory: temporary))
            // rename(2) replaces an empty directory and refuses one with anything in it: no CA is ever lost to a second
            // init.
            guard rename(temporary, directory) == 0 else {
                if [ENOTEMPTY, EEXIST, ENOTDIR].contains(errno) {
                    throw IdentityError(
                        .alreadyExists,
                        "\(directory) is there already and is not overwritten: certificates that its CA signed would be "
                            + "worth nothing. Choose another directory, or move it away first"
                    )
                }
                throw IdentityError(AtomicFile.failure("create", directory))
            }
            try fileWork(AtomicFile.synchronize(directory: parent))
        } catch {
            for (file, _, _) in files { unlink("\(temporary)/\(file)") }
            rmdir(temporary)
            throw error
        }
        return EmbeddedCA(
            certificate: ca.certificate,
            bundle: try TrustBundle(trustDomain: ca.trustDomain, roots: ca.roots),
            key: ca.key,
            directory: directory
        )
    }

    /// Opens a CA that `create` made.
    ///
    /// Fails with `notFound`, or with `passphraseRequired` or `wrongPassphrase` if its key is encrypted.
    public static func load(directory: String, passphrase: Passphrase? = nil) throws(IdentityError) -> EmbeddedCA {
        var (certificate, bundle) = try readCertificates(directory: directory)
        let path = "\(directory)/\(keyFile)"
        let (keyPEM, access) = try fileWork(AtomicFile.readWithAccess(path))
        try CredentialFiles.requirePrivate(access, path: path)
        let key: PrivateKey
        do throws(IdentityError) {
            key = try PrivateKey(pem: keyPEM, passphrase: passphrase)
        } catch {
            throw IdentityError(error.code, "\(path): \(error.message)")
        }
        if !key.matches(certificate),
            let next = try? Certificate(pem: fileWork(AtomicFile.read("\(directory)/next/\(certificateFile)"))),
            key.matches(next)
        {
            // The change from one CA to the next was cut between key and certificate.
            certificate = next
        }
        guard key.matches(certificate) else {
            throw IdentityError(
                .keyMismatch,
                "\(keyFile) and \(certificateFile) in \(directory) do not belong together"
            )
        }
        return EmbeddedCA(certificate: certificate, bundle: bundle, key: key, directory: directory)
    }

    /// The roots of the CA in a directory. Its key is not touched, so no passphrase is needed.
    public static func bundle(directory: String) throws(IdentityError) -> TrustBundle {
        try readCertificates(directory: directory).bundle
    }

    private static func readCertificates(
        directory: String
    ) throws(IdentityError) -> (certificate: Certificate, bundle: TrustBundle) {
        let path = "\(directory)/\(certificateFile)"
        let certificate: Certificate
        do throws(IdentityError) {
            certificate = try Certificate(pem: trustFile(path))
        } catch {
            guard error.code == .notFound else { throw IdentityError(error.code, "\(path): \(error.message)") }
            throw IdentityError(
                .notFound,
                "there is no CA in \(directory); make one with: bootstrap ca init --trust-domain TD"
            )
        }
        let trustDomain: TrustDomain
        do throws(SVIDError) {
            trustDomain = try certificate.spiffeID().trustDomain
        } catch {
            throw IdentityError(.invalidCertificate, "\(path): \(error.message)")
        }
        let roots = try Certificate.trusted(file: "\(directory)/\(rootsFile)")
        return (certificate, try TrustBundle(trustDomain: trustDomain, roots: [certificate] + roots))
    }

    init(certificate: Certificate, bundle: TrustBundle, key: PrivateKey, directory: String) {
        self.directory = directory
        self.certificate = certificate
        trustDomain = bundle.trustDomain
        roots = bundle.roots
        self.key = key
    }

    /// A CA in memory only.
    package init(
        trustDomain: TrustDomain,
        lifetime: Duration = EmbeddedCA.defaultLifetime,
        now: Int64
    ) throws(IdentityError) {
        let key = try PrivateKey.generate()
        var template = CertificateTemplate(
            notBefore: now - Self.rootBackdating,
            notAfter: now + lifetime.components.seconds,
            extensions: CertificateTemplate.authority
        )
        template.names.uris = [Array(trustDomain.id.description.utf8)]
        template.subject = Self.subject(of: trustDomain)
        certificate = try template.sign(publicKey: key.pointer, issuer: nil, key: key)
        self.trustDomain = trustDomain
        self.key = key
        directory = nil
        roots = [certificate]
    }

    static func subject(of trustDomain: TrustDomain) -> [(field: String, value: String)] {
        // X.520 allows 64 characters in an organization's name. The URI has the full one.
        let organization = trustDomain.name.utf8.count <= 64 ? [("O", trustDomain.name)] : []
        return organization + [("CN", "bootstrap CA")]
    }

    /// Refuses another trust domain, a request that asks for another identity, one without proof of possession or with
    /// a weak key, and a lifetime beyond the CA's own.
    ///
    /// A revocation list that is damaged is given to nobody: the certificate comes without one, and whoever has a list
    /// keeps that.
    public func issue(
        _ request: CertificateRequest,
        id: SPIFFEID,
        options: IssuanceOptions = IssuanceOptions()
    ) throws(IdentityError) -> IssuedCertificate {
        try issue(request, id: id, options: options, now: WallClock.system.seconds)
    }

    package func issue(
        _ request: CertificateRequest,
        id: SPIFFEID,
        options: IssuanceOptions,
        now: Int64
    ) throws(IdentityError) -> IssuedCertificate {
        guard id.trustDomain == trustDomain else {
            throw IdentityError(.refused, "this CA is for \(trustDomain); it does not vouch for \(id)")
        }
        try options.check(id)
        try request.verify()
        try checkWish(of: request, id: id)
        let lifetime = options.lifetime.components.seconds
        guard lifetime > 0 else {
            throw IdentityError(.refused, "the lifetime \(options.lifetime) is not at least one second")
        }
        let notAfter = now.addingReportingOverflow(lifetime)
        guard !notAfter.overflow, notAfter.partialValue <= certificate.notAfter else {
            throw IdentityError(
                .refused,
                "a lifetime of \(describe(seconds: lifetime)) goes beyond the CA's own, which ends at "
                    + describe(time: certificate.notAfter)
            )
        }
        let notBefore = try notBefore(options.backdating, now: now)
        guard let publicKey = X509_REQ_get0_pubkey(request.pointer) else {
            throw IdentityError(.invalidRequest, "the certificate request has no readable public key")
        }
        var template = CertificateTemplate(
            notBefore: notBefore,
            notAfter: notAfter.partialValue,
            extensions: CertificateTemplate.workload
        )
        template.names.uris = [Array(id.description.utf8)]
        template.names.dnsNames = try options.dnsNames.map(Self.checked(dnsName:))
        template.names.ipAddresses = try options.ipAddresses.map(Self.bytes(ofIPAddress:))
        let leaf = try template.sign(publicKey: publicKey, issuer: certificate, key: key)
        // Read each time: another process may have revoked something meanwhile.
        var issued = IssuedCertificate(chain: [leaf], roots: try presentRoots())
        issued.revocationLists = revocationListsToGiveOut(issued.roots)
        if issued.roots.count > 1 { issued.vouchers = try vouchers() }
        try issued.verify(for: request, id: id, at: now)
        return issued
    }

    private func notBefore(_ backdating: Duration, now: Int64) throws(IdentityError) -> Int64 {
        let seconds = backdating.components.seconds
        let (notBefore, overflow) = now.subtractingReportingOverflow(seconds)
        guard seconds >= 0, !overflow else {
            throw IdentityError(.refused, "a certificate cannot be dated back by \(backdating)")
        }
        // What is usual does not depend on it: the CA's clock may have been set back meanwhile.
        guard seconds <= IssuanceOptions.defaultBackdating.components.seconds || notBefore >= certificate.notBefore
        else {
            throw IdentityError(
                .refused,
                "a certificate that is valid from \(describe(time: notBefore)) on would be older than the CA, whose own is valid from "
                    + "\(describe(time: certificate.notBefore)) on: set the clock of the device that it is for"
            )
        }
        return notBefore
    }

    /// For somebody whom every device is to accept at once, however far behind its clock is within what
    /// ``IssuanceOptions`` of a device cover: the operator, the issuer. NotBefore is back by a quarter of the lifetime,
    /// as far as the CA's own certificate allows.
    package func optionsForAnyClock(now: Int64? = nil) -> IssuanceOptions {
        var options = IssuanceOptions()
        options.allowsReservedIdentity = true
        let room = (now ?? WallClock.system.seconds) - certificate.notBefore
        let wanted = options.lifetime.components.seconds / 4 + 60
        options.backdating = max(options.backdating, .seconds(min(wanted, room)))
        return options
    }

    /// The roots that are given out now: another process may have begun to replace the root.
    private func presentRoots() throws(IdentityError) -> [Certificate] {
        guard let directory else { return roots }
        let (present, bundle) = try Self.readCertificates(directory: directory)
        guard present == certificate else {
            throw IdentityError(
                .refused,
                "the CA in \(directory) has another key since it was opened (`bootstrap ca rotate`): open it again"
            )
        }
        return bundle.roots
    }

    /// Whether this is the CA of its directory still, and not the one before it (`RootRotation`). It costs reading two
    /// small files.
    package func isPresent() throws(IdentityError) -> Bool {
        guard let directory else { return true }
        return try Self.readCertificates(directory: directory).certificate == certificate
    }

    /// The lists that `revoke` wrote last, in PEM form; nil as long as nothing was revoked.
    package func revocationLists() throws(IdentityError) -> [UInt8]? {
        try directory.flatMap { directory throws(IdentityError) in try Self.revocationLists(directory: directory) }
    }

    /// The same, and nil where the file cannot be read or is no list that holders of these roots would take.
    private func revocationListsToGiveOut(_ roots: [Certificate]) -> [UInt8]? {
        guard let lists = (try? revocationLists()) ?? nil, GoodLists.lastOnes.contain(lists, of: roots) else {
            return nil
        }
        return lists
    }

    /// The certificates of the keys that make lists: the present one's, and, while a root is replaced, the one's before
    /// it. No key is touched.
    package static func signers(directory: String) throws(IdentityError) -> [Certificate] {
        let present = try readCertificates(directory: directory).certificate
        guard RootRotation(directory: directory).phase == .retiring else { return [present] }
        return [present, try Certificate(pem: trustFile("\(directory)/previous/\(certificateFile)"))]
    }

    /// The lists in a CA's directory, in PEM form; nil as long as nothing was revoked.
    package static func revocationLists(directory: String) throws(IdentityError) -> [UInt8]? {
        do throws(IdentityError) {
            return try trustFile("\(directory)/\(revocationsFile)", limit: RevocationList.maximumLength)
        } catch {
            guard error.code == .notFound else { throw error }
            return nil
        }
    }

    /// A request may ask for nothing, or for what was approved. Anything else is a mistake or an attempt.
    private func checkWish(of request: CertificateRequest, id: SPIFFEID) throws(IdentityError) {
        let wish: SPIFFEID?
        do throws(SVIDError) {
            wish = try request.requestedID()
        } catch {
            throw IdentityError(.invalidRequest, "in the certificate request: \(error.message)")
        }
        if let wish, wish != id {
            throw IdentityError(.refused, "the certificate request asks for \(wish), but \(id) is what was approved")
        }
    }

    private static func checked(dnsName name: String) throws(IdentityError) -> String {
        let labels = name.split(separator: ".", omittingEmptySubsequences: false)
        let isValid =
            name.utf8.count <= 253 && !name.isEmpty
            && labels.enumerated().allSatisfy { index, label in
                if index == 0, label == "*", labels.count > 1 { return true }
                return (1...63).contains(label.utf8.count) && label.first != "-" && label.last != "-"
                    && label.utf8.allSatisfy { byte in
                        switch byte {
                        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                            UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"):
                            true
                        default: false
                        }
                    }
            }
        guard isValid else { throw IdentityError(.refused, "'\(name)' is no DNS name") }
        return name
    }

    private static func bytes(ofIPAddress text: String) throws(IdentityError) -> [UInt8] {
        guard let bytes = SubjectAlternativeNames.bytes(ofIPAddress: text) else {
            throw IdentityError(.refused, "'\(text)' is no IP address")
        }
        return bytes
    }
}

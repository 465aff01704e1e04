package import MeshIdentity
import Platform
import SSHSignal
import Streams

/// A device's word that a certificate request is its own, signed with its SSH host key: evidence that can be kept and verified by anybody,
/// as the key exchange of a session cannot.
///
/// The host key is root's, so this is root's word: an account that merely logs in cannot give it.
package struct HostKeyAttestation: Hashable, Sendable, Codable {
    /// The certificate request, PEM: the bytes that are signed.
    package var request: String
    /// What `ssh-keygen -Y sign` made of it.
    package var signature: String
    /// `mesh-enrollment@TRUST-DOMAIN`.
    package var namespace: String
    /// The host key, as in a `.pub` file.
    package var hostKey: String
    /// When it was verified, in seconds since 1970.
    package var verifiedAt: Int64
    /// The serial number of the certificate that was signed for it, in lower-case hexadecimal.
    package var serial: String?

    /// What signatures of this kind are for: one of another mesh, or for something else, is none.
    package static func namespace(_ domain: TrustDomain) -> String { "mesh-enrollment@\(domain)" }

    /// Verifies what is kept, without the device.
    ///
    /// - Returns: Why it proves nothing; nil when the host key has signed this request.
    package var refusal: String? {
        do throws(IdentityError) {
            return try SSHSignature(armored: Array(signature.utf8)).refusal(
                of: Array(request.utf8),
                namespace: namespace,
                by: SSHPublicKey(line: Array(hostKey.utf8))
            )
        } catch {
            return error.message
        }
    }

    /// `SHA256:…` of the host key; nil where it is damaged.
    package var fingerprint: String? { (try? SSHPublicKey(line: Array(hostKey.utf8)))?.fingerprint }
}

/// Has the device's host key sign each request before its issuer sees it.
struct AttestingIssuer: CertificateIssuer {
    let issuer: any CertificateIssuer
    let name: String
    /// The session in which the request was made; the host key of its key exchange is the one that has to sign.
    let client: SSHClient
    /// Of the last request.
    let attestation = Lock<HostKeyAttestation?>(nil)
    let report: @Sendable (DeviceEnrollment.Progress) -> Void

    init(
        _ issuer: any CertificateIssuer,
        _ name: String,
        _ client: SSHClient,
        report: @escaping @Sendable (DeviceEnrollment.Progress) -> Void
    ) {
        self.issuer = issuer
        self.name = name
        self.client = client
        self.report = report
    }

    func issue(
        _ request: CertificateRequest,
        id: SPIFFEID,
        options: IssuanceOptions
    ) async throws(IdentityError) -> IssuedCertificate {
        let start = ContinuousClock.now
        var attestation: HostKeyAttestation
        do {
            attestation = try await attest(request, id.trustDomain)
        } catch {
            // Nothing has been signed: a device that cannot prove it gets no certificate.
            throw IdentityError(.refused, "--attest: \(HostError(error, name: name).message)")
        }
        let issued = try await issuer.issue(request, id: id, options: options)
        attestation.serial = issued.leaf?.serialNumber
        self.attestation.withLock { $0 = attestation }
        report(.step("attest", "the request is signed by the host key \(client.hostKey.fingerprint)", .now - start))
        return issued
    }

    private func attest(_ request: CertificateRequest, _ domain: TrustDomain) async throws -> HostKeyAttestation {
        let key = try SSHPublicKey(blob: client.hostKey.blob)
        let pem = String(decoding: request.pem, as: UTF8.self)
        let namespace = HostKeyAttestation.namespace(domain)
        let channel = try await SSHServerSetup.privilegedChannel(client, name: name, purpose: "its host key is root's")
        defer { channel.close() }
        let shell = RemoteShell(channel, name: name)
        let found = try await shell.run(SSHServerScript.find(configuration: nil), step: "attest")
        let server = try SSHServerFacts(found, name: name)
        guard let file = server.hostKeys.first(where: { $0.key == key }) else {
            throw HostError(
                .failed,
                "\(name): the sshd of \(server.configuration) does not have the host key \(client.hostKey) that this session has shown"
            )
        }
        let script = SSHServerScript.sign(pem, namespace: namespace, with: file.path)
        let output = try await shell.run(script, step: "attest")
        guard output.status == 0 else {
            let reason = output.values["error"] ?? output.lines.suffix(3).joined(separator: " ")
            throw HostError(.unfit, "\(name): \(Printable.clean(reason, limit: 400))")
        }
        // The device's word until it is verified.
        let lines = output.lines.filter { $0.hasPrefix("sig:") }.map { $0.dropFirst(4) + "\n" }
        let attestation = HostKeyAttestation(
            request: pem,
            signature: try SSHSignature(armored: Array(lines.joined().utf8)).armored,
            namespace: namespace,
            hostKey: key.line,
            verifiedAt: currentTime()
        )
        if let refusal = attestation.refusal {
            throw HostError(.denied, "\(name): the signature over its certificate request is refused: \(refusal)")
        }
        return attestation
    }
}

extension SSHServerScript {
    /// Signs a text with a host key. It says `sig:LINE` for each line of the signature.
    static func sign(_ text: String, namespace: String, with key: String) -> String {
        """
        export LC_ALL=C
        PATH="$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        command -v ssh-keygen >/dev/null 2>&1 || { echo "error=it has no ssh-keygen to sign with"; exit 1; }
        signature=$(printf '%s' \(ShellScript.quote(text)) | ssh-keygen -Y sign -n \(ShellScript.quote(namespace)) -f \(ShellScript.quote(key)) 2>&1)
        case "$signature" in
          *"BEGIN SSH SIGNATURE"*) ;;
          *"unknown option"*|*"illegal option"*|*"invalid option"*) echo "error=its ssh-keygen is too old to sign: OpenSSH 8.1 or newer can"; exit 1;;
          *) echo "error=ssh-keygen -Y sign: $(echo "$signature" | tail -n 1)"; exit 1;;
        esac
        echo "$signature" | sed -n '/^-----BEGIN/,/^-----END/s/^/sig:/p'
        """
    }
}

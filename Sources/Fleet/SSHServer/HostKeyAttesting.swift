import MeshIdentity
import Platform
import SSHSignal

/// Has a device's host key sign a certificate request, over a channel of its own beside the conversation that has
/// brought the request.
struct HostKeyAttesting: Sendable {
    let name: String
    /// The session in which the request was made; the host key of its key exchange is the one that has to sign.
    let client: SSHClient
    let report: @Sendable (EnrollmentProgress) -> Void

    /// - Parameters:
    ///   - request: PEM and all, as it came.
    ///   - domain: Of the identity that is asked for.
    func callAsFunction(_ request: CertificateRequest, _ domain: TrustDomain) async throws -> HostKeyAttestation {
        let start = ContinuousClock.now
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
            verifiedAt: WallClock.system.seconds
        )
        if let refusal = attestation.refusal {
            throw HostError(.denied, "\(name): the signature over its certificate request is refused: \(refusal)")
        }
        report(.step("attest", "the request is signed by the host key \(client.hostKey.fingerprint)", .now - start))
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

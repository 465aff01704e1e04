package import H2Transport
package import MeshIdentity
import Platform
import SSHSignal

/// Who the operator is in the mesh towards one device: a short-lived identity in the device's namespace, made by the
/// operator's own CA and kept in memory only; and whom the operator trusts.
///
/// The CA's list and the ledger of this home hold, whichever CA the ledger's certificates are of: who was revoked is
/// refused, also where the list was not written, or not brought to anybody, yet.
package struct OperatorIdentity: Sendable {
    private let authority: LiveCA
    private let records: DeviceDirectory
    private let device: Device
    private let id: SPIFFEID
    private let trust: OperatorTrust

    /// - Throws: where the device's identity has no place for one beside it.
    package init(for device: Device, by authority: LiveCA, records: DeviceDirectory) throws(SPIFFEIDError) {
        self.authority = authority
        self.records = records
        self.device = device
        trust = OperatorTrust(records: records, authority: authority.directory)
        id = try SPIFFEID(
            trustDomain: authority.trustDomain,
            namespace: device.identity.namespace ?? "default",
            name: ReservedIdentity.operatorName
        )
    }

    /// A new key with its certificate.
    package func issue() throws(IdentityError) -> Credential {
        let key = try PrivateKey.generate()
        let request = try CertificateRequest.create(key: key, id: id)
        let authority = try authority.present()
        let issued = try authority.issue(request, id: id, options: authority.optionsForAnyClock())
        return try Credential(
            key: key,
            chain: issued.chain,
            roots: issued.roots,
            revocationLists: issued.revocationLists
        )
    }

    /// What connections need to show a credential, and to refuse whoever is revoked now.
    package func context(_ credential: Credential) throws -> TLSContext {
        let bundle = try TrustBundle(
            trustDomain: authority.trustDomain,
            roots: authority.roots(),
            revocationLists: authority.present().revocationLists()
        )
        let trust = bundle.refusing(try records.ledger.revokedCertificates())
        return try TLSContext(role: .client, credential: credential, trust: TrustBundleSet(trust))
    }

    /// Why the operator has nothing to do with the device any more; nil: it is not revoked.
    package func refusal() throws(DeviceDirectoryError) -> HostError? {
        try trust.refusal(ofDeviceNamed: device.name)
    }

    /// Changes whenever what ``context(_:)`` and ``refusal()`` say may have changed.
    var stamp: FileStamp { trust.stamp }
}

extension Device {
    /// Why nobody is to have anything to do with it; nil: it is not revoked.
    package var revocation: HostError? {
        guard let revokedAt else { return nil }
        let reason = revocationReason.map { " (\($0))" } ?? ""
        return HostError(
            .denied,
            "\(name): it was revoked at \(Timestamp.text(revokedAt))\(reason). If it is to be trusted again: enroll it with --reinstate; "
                + "`ssh` and `bootstrap exec` reach it by its host key"
        )
    }
}

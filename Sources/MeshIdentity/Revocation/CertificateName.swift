/// What tells a certificate from every other: who signed it, and the number it got there (RFC 5280 §4.1.2.2).
package struct CertificateName: Hashable, Sendable {
    /// The issuing key's identifier in lower-case hexadecimal; empty when the certificate does not say.
    package var issuer: String
    /// Lower-case hexadecimal.
    package var serial: String

    package init(issuer: String, serial: String) {
        self.issuer = issuer
        self.serial = serial
    }
}

extension Certificate {
    package var name: CertificateName {
        CertificateName(issuer: authorityKeyIdentifier ?? "", serial: serialNumber)
    }
}

import MeshIdentity
import Platform

/// Enrolments that have got a certificate and left no device: under way, or cut. Their certificates are accepted all
/// the same.
package struct UnfinishedEnrolments: Sendable {
    private let certificates: [LedgerCertificate]

    package init(in ledger: Ledger) throws(LedgerError) { certificates = try ledger.unfinishedEnrolments() }

    /// A sentence for each name, with what can be done; empty where there is none.
    package var remarks: [String] {
        let named = Dictionary(grouping: certificates) { $0.device ?? "" }
        return named.sorted { $0.key < $1.key }.map { name, certificates in
            let last = certificates.map(\.notAfter).max() ?? 0
            let serials = certificates.map(\.serial).joined(separator: ", ")
            return
                "\(name): its enrolment is under way or was cut: there is no record of it, and \(counted(certificates.count, "certificate")) "
                + "of \(certificates[0].identity) (serial \(serials)) accepted until \(describe(time: last)). `bootstrap enroll` again "
                + "finishes it; `bootstrap revoke \(name)` has everybody refuse it"
        }
    }
}

/// How `revoke` finds what is valid of somebody who is no device.
extension DeviceDirectory {
    /// What the ledger calls those certificates that are valid of somebody who is not recorded, or not any more; nil
    /// where there are none.
    ///
    /// - Parameter text: A name, a SPIFFE ID, or a destination, whose host was to be the name.
    package func unrecorded(_ text: String) throws(HostError) -> String? {
        do throws(LedgerError) {
            for name in [text, (try? EnrollmentTarget(text))?.name ?? text]
            where try ledger.hasCertificates(ofUnrecorded: name) {
                return name
            }
            return nil
        } catch {
            throw HostError(.failed, error.message)
        }
    }
}

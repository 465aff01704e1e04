package import MeshIdentity
import Platform

extension DeviceDirectory {
    /// Who would not know the certificates that the new key signs.
    ///
    /// - Returns: A line for people for each device, and for each identity that was made by hand.
    package func lacking(_ root: Certificate) throws -> [String] {
        let now = WallClock.system.seconds
        let devices = try all().filter {
            $0.revokedAt == nil && $0.notAfter > now && $0.roots?.contains(root.fingerprint) != true
        }
        // A certificate that was made by hand went out with the roots of its day.
        var seen: Set<String> = []
        let byHand = try ledger.certificates().filter {
            // The latest of each identity: whoever had an earlier one has replaced it.
            $0.device == nil && seen.insert($0.identity).inserted && $0.state == .issued && $0.notAfter > now
                && $0.issuedAt < EmbeddedCA.madeAt(root)
        }
        return devices.map { "\($0.name) (\($0.identity))" }
            + byHand.map {
                "\($0.identity), serial \($0.serial.prefix(12))…, made by `\($0.command)`: make it again, or it ends at "
                    + describe(time: $0.notAfter)
            }
    }
}

import MeshIdentity
import SSHSignal
import Testing

@testable import Fleet

@Suite("times that a ledger or a certificate cannot have") struct RecordedTimesTests {
    private static let extremes: [Int64] = [.min, -1, 0, 1, .max]

    @Test("a host certificate's lifetime is a number, whatever is recorded", arguments: extremes, extremes)
    func hostCertificates(notBefore: Int64, notAfter: Int64) {
        let certificate = SSHServerRecord.HostCertificate(
            path: "/key-cert.pub",
            algorithm: "ssh-ed25519",
            fingerprint: "SHA256:x",
            serial: "1",
            principals: ["a"],
            notBefore: notBefore,
            notAfter: notAfter,
            isProven: true
        )
        let record = SSHServerRecord(configuration: "/sshd_config", hostCertificates: [certificate])
        #expect(certificate.lifetime <= .max)
        #expect(record.isDue(at: .max))
    }

    @Test("when to renew is a time, whatever the certificate's times are", arguments: extremes, extremes)
    func renewal(notBefore: Int64, notAfter: Int64) {
        var schedule = RenewalSchedule(notBefore: notBefore, notAfter: notAfter, random: 0.5)
        for now in Self.extremes {
            #expect(schedule.wait(at: now) >= 0)
            #expect(schedule.attemptFailed(at: now, random: 0.5) >= 1)
        }
    }
}
